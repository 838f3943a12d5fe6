"""Records to something to look at: text, Markdown, pictures."""
