"use strict";
for (const slider of document.querySelectorAll(".slider")) {
  const range = slider.querySelector("input[type=range]");
  const stack = slider.querySelector(".stack");
  const show = () => {
    stack.style.setProperty("--at", range.value + "%");
    range.setAttribute("aria-valuetext", range.value + " % reference, " + (100 - range.value) + " % engine");
  };
  range.addEventListener("input", show);
  stack.addEventListener("pointermove", (event) => {
    if (!event.buttons && event.pointerType === "mouse") return;
    const box = stack.getBoundingClientRect();
    range.value = Math.round((100 * (event.clientX - box.left)) / box.width);
    show();
  });
  show();
}
for (const button of document.querySelectorAll("button.copy")) {
  if (!navigator.clipboard) continue;
  button.hidden = false;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(button.previousElementSibling.textContent);
    button.textContent = "copied";
    setTimeout(() => (button.textContent = "copy"), 1500);
  });
}
