//! Bugs that the checker must catch.
