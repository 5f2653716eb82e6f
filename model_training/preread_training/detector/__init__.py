"""The detector of images that are no frontal chest radiograph."""
