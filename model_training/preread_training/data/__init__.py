"""Images, labels, patients, folds; synthetic images; files on disk."""
