"""The ground: settings, files from users, and the store."""
