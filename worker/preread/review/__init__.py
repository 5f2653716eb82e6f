"""Results, reviews, work list, audit trail, and who signs in."""
