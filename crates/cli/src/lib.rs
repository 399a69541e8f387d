//! The dyn command: run, inspect and use a dynkv cluster
