"""Tables, figures and the page; nothing here trains or measures."""
