"""Opening disk images from a desktop: what file managers are told, and what a click does."""
