//! Client library of the dynkv key-value store
