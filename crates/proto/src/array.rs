//! Structs as compact CBOR arrays.

/// Declares a struct that is encoded as an array of its fields in order.
///
/// serde's derive would write field names into every message. A tuple struct would not, but has no names in the code
/// either, and refuses a shorter array: a field added later must default when an older peer does not send it. So:
/// fields in the order of the wire; a new one goes last, with `= default`; surplus elements of a newer peer are skipped.
macro_rules! array {
    ($(#[$meta:meta])* $vis:vis $name:ident { $($(#[$fmeta:meta])* $field:ident : $ty:ty $(= $default:expr)?),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        $vis struct $name { $($(#[$fmeta])* pub $field: $ty),+ }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                use serde::ser::SerializeTuple;
                let mut tuple = serializer.serialize_tuple([$(stringify!($field)),+].len())?;
                $(tuple.serialize_element(&self.$field)?;)+
                tuple.end()
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Fields;
                impl<'de> serde::de::Visitor<'de> for Fields {
                    type Value = $name;
                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str(concat!("an array: ", stringify!($name)))
                    }
                    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<$name, A::Error> {
                        let value = $name { $($field: $crate::array::element!(seq, $field $(, $default)?)),+ };
                        while seq.next_element::<serde::de::IgnoredAny>()?.is_some() {}
                        Ok(value)
                    }
                }
                deserializer.deserialize_seq(Fields)
            }
        }
    };
}

/// The next element of an array, or its default, or an error that names the missing field.
macro_rules! element {
    ($seq:ident, $field:ident) => {
        match $seq.next_element()? {
            Some(value) => value,
            None => return Err(serde::de::Error::missing_field(stringify!($field))),
        }
    };
    ($seq:ident, $field:ident, $default:expr) => {
        match $seq.next_element()? {
            Some(value) => value,
            None => $default,
        }
    };
}

/// [`array!`] for a message with a kind on the wire; with `=> Reply`, a request.
macro_rules! message {
    ($(#[$meta:meta])* $kind:ident, $name:ident $(=> $reply:ident)? { $($body:tt)+ }) => {
        $crate::array::array! { $(#[$meta])* pub $name { $($body)+ } }
        impl $crate::Message for $name {
            const KIND: u16 = $crate::kinds::$kind;
        }
        $(impl $crate::Request for $name {
            type Reply = $reply;
        })?
    };
}

pub(crate) use {array, element, message};
