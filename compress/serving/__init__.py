"""An engine as a service over HTTP: pictures, metrics and a page that draws; needs the extra `serve`."""
