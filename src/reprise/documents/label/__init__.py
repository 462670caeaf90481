"""One topic per document, by a classifier that is fitted to labelled documents."""
