"""Assign one topic to each document, by a classifier that is fitted to labelled documents."""
