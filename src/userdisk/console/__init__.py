"""The console: a page in the browser, and the small server between it and the launcher."""
