"""Bundle, intended use, classifier, and the function ``assess``."""
