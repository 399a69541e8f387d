//! A node of the dynkv key-value store: coordinator, replica and storage
