"""Weight files and folders: opened without running code in them, downloaded, written."""
