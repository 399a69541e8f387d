//! Mutually authenticated QUIC request/response transport of the dynkv key-value store
