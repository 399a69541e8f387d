//! Who may depend on whom, and what every published package has. Reads `cargo metadata` and the sources.

use std::{collections::BTreeSet, fs, path::Path};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};

/// The packages of ours that each package may depend on (dev-dependencies apart: those may also look sideways and up, as
/// cargo allows it, because nobody who uses a package is burdened with them).
const ALLOWED: &[(&str, &[&str])] = &[
    ("dynkv-cli", &["dynkv-node", "dynkv-client"]),
    (
        "dynkv-node",
        &[
            "dynkv-client",
            "dynkv-net",
            "dynkv-proto",
            "dynkv-ring",
            "dynkv-vclock",
            "dynkv-merkle",
            "dynkv-gossip",
        ],
    ),
    ("dynkv-client", &["dynkv-net", "dynkv-proto", "dynkv-ring", "dynkv-vclock"]),
    // Of the ring it needs node ids: who somebody is stands in a certificate.
    ("dynkv-net", &["dynkv-proto", "dynkv-ring"]),
    ("dynkv-proto", &["dynkv-ring", "dynkv-vclock"]),
    ("dynkv-ring", &[]),
    ("dynkv-vclock", &[]),
    ("dynkv-merkle", &[]),
    ("dynkv-gossip", &[]),
];

/// Libraries that one package hides from all others, in whatever kind of dependency.
const HIDDEN: &[(&str, &str)] = &[
    ("quinn", "dynkv-net"),
    ("quinn-proto", "dynkv-net"),
    ("rustls", "dynkv-net"),
    ("rcgen", "dynkv-net"),
    ("x509-parser", "dynkv-net"),
    ("fjall", "dynkv-node"),
];

/// Sans-IO: no runtime, no sockets, no clock, no randomness.
const TECHNIQUES: &[&str] = &["dynkv-ring", "dynkv-vclock", "dynkv-merkle", "dynkv-gossip"];
const WORLDLY: &[&str] = &["tokio", "quinn", "rustls", "socket2", "fjall", "rand", "futures-util", "tracing"];

const LINES_MAX: usize = 700;

fn metadata() -> Metadata {
    MetadataCommand::new()
        .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .no_deps()
        .exec()
        .expect("cargo metadata")
}

fn members(metadata: &Metadata) -> Vec<&Package> {
    let members = metadata.workspace_packages();
    assert!(members.len() >= 8, "the workspace has lost members");
    members
}

/// Whether the package is one for users: those under crates/.
fn is_published(package: &Package) -> bool {
    package.publish.as_ref().is_none_or(|registries| !registries.is_empty())
}

fn folder(package: &Package) -> &Path {
    package.manifest_path.parent().expect("a manifest is in a folder").as_std_path()
}

#[test]
fn dependencies_point_down_only() {
    let metadata = metadata();
    for package in members(&metadata).into_iter().filter(|package| is_published(package)) {
        let allowed = ALLOWED.iter().find(|(name, _)| *name == package.name.as_str());
        let (_, allowed) = allowed.unwrap_or_else(|| panic!("say here what {} may depend on", package.name));
        for dependency in &package.dependencies {
            if dependency.kind != DependencyKind::Development && dependency.path.is_some() {
                assert!(
                    allowed.contains(&dependency.name.as_str()),
                    "{} must not depend on {}",
                    package.name,
                    dependency.name
                );
            }
        }
    }
}

#[test]
fn libraries_stay_behind_the_package_that_hides_them() {
    let metadata = metadata();
    for package in members(&metadata).into_iter().filter(|package| is_published(package)) {
        for dependency in &package.dependencies {
            let hidden = HIDDEN.iter().find(|(library, _)| *library == dependency.name);
            if let Some((library, user)) = hidden {
                assert_eq!(package.name.as_str(), *user, "only {user} may use {library}");
            }
            if TECHNIQUES.contains(&package.name.as_str()) && dependency.kind == DependencyKind::Normal {
                assert!(
                    !WORLDLY.contains(&dependency.name.as_str()),
                    "{} is sans-IO and must not use {}",
                    package.name,
                    dependency.name
                );
            }
        }
    }
}

#[test]
fn packages_inherit_from_the_workspace_and_say_what_they_are() {
    let metadata = metadata();
    for package in members(&metadata) {
        let name = package.name.as_str();
        let manifest = fs::read_to_string(&package.manifest_path).expect("the manifest");
        for inherited in ["version", "edition", "rust-version", "license"] {
            assert!(manifest.contains(&format!("{inherited}.workspace = true\n")), "{name}: {inherited}");
        }
        assert!(manifest.contains("[lints]\nworkspace = true\n"), "{name}: lints");
        assert!(package.description.is_some(), "{name}: description");
        let readme = folder(package).join("README.md");
        assert!(fs::metadata(readme).is_ok_and(|readme| readme.len() > 0), "{name}: README.md");

        let in_crates = folder(package).parent().is_some_and(|parent| parent.ends_with("crates"));
        assert_eq!(
            is_published(package),
            in_crates,
            "{name}: what is under crates/ is published, nothing else"
        );
        if is_published(package) {
            assert!(manifest.contains("repository.workspace = true\n"), "{name}: repository");
            assert!((1..=5).contains(&package.keywords.len()), "{name}: keywords");
            assert!(!package.categories.is_empty(), "{name}: categories");
            assert!(package.readme.is_some(), "{name}: readme");
        }
    }
}

#[test]
fn versions_are_said_once() {
    let metadata = metadata();
    for package in members(&metadata) {
        let manifest = fs::read_to_string(&package.manifest_path).expect("the manifest");
        let mut section = "";
        for line in manifest.lines().map(str::trim) {
            if line.starts_with('[') {
                section = line;
            } else if section.ends_with("dependencies]") && line.contains('=') && !line.starts_with('#') {
                let workspace = line.contains(".workspace = true") || line.contains("workspace = true");
                assert!(workspace, "{}: {line}: name the version in the root manifest", package.name);
            }
        }
    }
}

#[test]
fn source_files_are_short_and_safe() {
    let metadata = metadata();
    let root = metadata.workspace_root.as_std_path();
    let mut long = BTreeSet::new();
    let mut found = 0;
    for package in members(&metadata) {
        for folder in ["src", "tests", "examples", "benches"] {
            walk(&folder_of(package, folder), &mut |path, text| {
                found += 1;
                let shown = path.strip_prefix(root).unwrap_or(path).display().to_string();
                let lines = text.lines().count();
                if lines > LINES_MAX {
                    long.insert(format!("{shown}: {lines} lines"));
                }
                // Put together here, so that this file does not find itself.
                let unsafe_word = ["un", "safe"].concat();
                let code = |line: &str| line.split("//").next().unwrap_or_default().to_owned();
                let bad = text.lines().map(code).find(|line| {
                    line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == unsafe_word)
                });
                assert_eq!(bad, None, "{shown}");
            });
        }
    }
    assert!(found > 50, "the sources were not found");
    assert!(long.is_empty(), "split along a seam: {long:?}");
}

fn folder_of(package: &Package, name: &str) -> std::path::PathBuf {
    folder(package).join(name)
}

/// Shows every Rust file below `folder`; nothing when it is not there.
fn walk(folder: &Path, show: &mut impl FnMut(&Path, &str)) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.expect("a readable folder").path();
        if path.is_dir() {
            walk(&path, show);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            show(&path, &fs::read_to_string(&path).expect("UTF-8 sources"));
        }
    }
}
