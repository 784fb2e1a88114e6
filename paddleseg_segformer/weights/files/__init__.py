"""Weight files and folders as unread tensors, without running what they name; writing them."""
