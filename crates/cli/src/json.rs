//! The shapes of JSON output.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use dynkv_client::{Fetched, Sibling, Stored};
use serde_json::{Map, Value, json};

use crate::address::{Address, to_hex};

/// Adds `"key"`, or `"key_hex"` where the key is not UTF-8.
pub(crate) fn add_key(object: &mut Map<String, Value>, key: &[u8]) {
    match str::from_utf8(key) {
        Ok(text) => object.insert("key".into(), text.into()),
        Err(_) => object.insert("key_hex".into(), to_hex(key).into()),
    };
}

/// Adds `"value"`, or `"value_base64"` where the value is not UTF-8.
fn add_value(object: &mut Map<String, Value>, value: &[u8]) {
    match str::from_utf8(value) {
        Ok(text) => object.insert("value".into(), text.into()),
        Err(_) => object.insert("value_base64".into(), STANDARD.encode(value).into()),
    };
}

/// `{"bucket", "key", ...}`, with the members of `more` behind.
pub(crate) fn of_key(address: &Address, more: Value) -> Value {
    let mut object = Map::new();
    object.insert("bucket".into(), address.bucket.as_str().into());
    add_key(&mut object, &address.key);
    if let Value::Object(more) = more {
        object.extend(more);
    }
    Value::Object(object)
}

/// What `get --json` prints.
pub(crate) fn fetched(address: &Address, fetched: &Fetched) -> Value {
    let siblings = fetched.siblings.iter().map(sibling);
    of_key(
        address,
        json!({
            "context": fetched.context.to_string(),
            "siblings": siblings.collect::<Vec<_>>(),
            "replicas": fetched.replicas,
            "homes": fetched.homes,
        }),
    )
}

fn sibling(sibling: &Sibling) -> Value {
    let mut object = Map::new();
    add_value(&mut object, &sibling.value);
    object.insert("dot".into(), sibling.dot.as_str().into());
    object.insert("time_ms".into(), sibling.time.wall_ms().into());
    object.insert("content_type".into(), sibling.content_type.as_str().into());
    object.insert("meta".into(), json!(sibling.meta));
    object.insert("put_id".into(), sibling.put_id.to_string().into());
    Value::Object(object)
}

/// What `put --json` and `delete --json` print.
pub(crate) fn stored(address: &Address, stored: &Stored, replaced: Option<usize>) -> Value {
    of_key(
        address,
        json!({
            "context": stored.context.to_string(),
            "dot": stored.dot,
            "put_id": stored.put_id.to_string(),
            "replaced": replaced,
            "replicas": stored.replicas,
            "homes": stored.homes,
            "durable": stored.durable,
            "possible_duplicate": stored.possible_duplicate,
        }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(bytes: &[u8]) -> Value {
        let mut object = Map::new();
        add_value(&mut object, bytes);
        object.into()
    }

    #[test]
    fn what_is_not_text_is_encoded_under_another_name() {
        assert_eq!(value(b"2 \"apples\"\n"), json!({"value": "2 \"apples\"\n"}));
        assert_eq!(value(b""), json!({"value": ""}));
        assert_eq!(value(&[0xff, 0, 1]), json!({"value_base64": "/wAB"}));
        let address = |key: &[u8]| Address { bucket: "b".into(), key: key.into() };
        assert_eq!(of_key(&address(b"k"), json!({"n": 1})), json!({"bucket": "b", "key": "k", "n": 1}));
        assert_eq!(of_key(&address(&[0xff]), Value::Null), json!({"bucket": "b", "key_hex": "ff"}));
    }
}
