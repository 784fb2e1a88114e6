"""An exported model behind HTTP; needs the extra `[serve]`."""
