//! A stream of arbitrary bytes never makes the frame reader panic, and what it reads it can write again.
#![no_main]

use bytes::BytesMut;
use dynkv_proto::Frame;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut stream = BytesMut::from(data);
    while let Ok(Some((id, frame))) = Frame::read(&mut stream, 1 << 16) {
        let mut again = BytesMut::new();
        frame.write(id, &mut again);
        assert_eq!(Frame::read(&mut again, 1 << 16), Ok(Some((id, frame))));
    }
});
