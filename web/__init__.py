"""What the pages for people share: who may open one, how it is served, how it stays current."""
