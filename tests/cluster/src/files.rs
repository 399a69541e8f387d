//! Folders of files.

use std::{fs, path::Path};

/// Copies `from`, a folder of folders and files, to `to`, which is not there yet: what a backup of a disk does.
///
/// # Panics
/// When something cannot be read or written.
pub fn copy_folder(from: &Path, to: &Path) {
    let failed = |error: std::io::Error| -> ! { panic!("{} to {}: {error}", from.display(), to.display()) };
    fs::create_dir(to).unwrap_or_else(|error| failed(error));
    for entry in fs::read_dir(from).unwrap_or_else(|error| failed(error)) {
        let entry = entry.unwrap_or_else(|error| failed(error));
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if source.is_dir() {
            copy_folder(&source, &target);
        } else {
            fs::copy(&source, &target).unwrap_or_else(|error| failed(error));
        }
    }
}
