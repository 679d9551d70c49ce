#!/bin/sh
# Runs a command with a GPU that is software: ONNX Runtime's WebGPU provider on SwiftShader, Chromium's Vulkan device.
#
#   tests/software_gpu.sh .venv/bin/pytest -m gpu tests/export/runtime
#
# ONNX Runtime looks for GPUs in /sys/class/drm, so the command gets a namespace of its own where one is listed. It needs
# Linux, unshare, Chromium and  pip install onnxruntime-ep-webgpu. It is slow: a step of a tiny model takes a tenth of a
# second. CHROMIUM is the folder of libvk_swiftshader.so.
set -eu
library=${CHROMIUM:-/usr/lib/chromium}/libvk_swiftshader.so
[ -f "$library" ] || { echo "$0: no $library; install Chromium, or set CHROMIUM to its folder" >&2; exit 2; }
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
ln -s "$library" "$room/libvulkan.so.1"
namespace="--mount"
[ "$(id -u)" = 0 ] || namespace="--mount --user --map-root-user"
# shellcheck disable=SC2086,SC2016
LD_LIBRARY_PATH=$room${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} unshare $namespace sh -euc '
    mount -t tmpfs none /sys/class
    mkdir -p /sys/class/drm/card0/device
    for each in vendor=0x10de device=0x2204 class=0x030000; do
        echo "${each#*=}" > "/sys/class/drm/card0/device/${each%=*}"
    done
    exec "$@"' sh "$@"
