//! What processes on this machine use: CPU time and memory, from Linux's `/proc` (elsewhere they are not known), and disk.

use std::fs;
use std::path::Path;
use std::time::Duration;

use walkdir::WalkDir;

/// What a process has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// User and system time since its start.
    pub(crate) cpu: Duration,
    /// Memory that it occupies now.
    pub(crate) rss_bytes: u64,
}

/// CPU time of this process so far.
#[cfg(unix)]
pub(crate) fn own_cpu() -> Option<Duration> {
    use rustix::time::{ClockId, clock_gettime};
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Some(Duration::new(time.tv_sec.try_into().ok()?, time.tv_nsec.try_into().ok()?))
}

/// CPU time of this process so far.
#[cfg(not(unix))]
pub(crate) fn own_cpu() -> Option<Duration> {
    None
}

/// What the processes `pids` have used together; nothing when that of one is not known, or there are none.
pub(crate) fn usage(pids: &[u32]) -> Option<Usage> {
    let mut total = None;
    for pid in pids {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let total = total.get_or_insert(Usage::default());
        total.cpu += cpu(&stat, ticks_per_second()?)?;
        total.rss_bytes += rss_bytes(&status)?;
    }
    total
}

#[cfg(unix)]
fn ticks_per_second() -> Option<u64> {
    Some(rustix::param::clock_ticks_per_second())
}

#[cfg(not(unix))]
fn ticks_per_second() -> Option<u64> {
    None
}

/// Fields 14 and 15 of `/proc/PID/stat` (proc(5)): user and system time in ticks.
fn cpu(stat: &str, ticks_per_second: u64) -> Option<Duration> {
    // The second field is the program's name in brackets, which may contain anything.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_ascii_whitespace().skip(11).map(str::parse::<u64>);
    let ticks = times.next()?.ok()? + times.next()?.ok()?;
    Some(Duration::from_secs_f64(ticks as f64 / ticks_per_second as f64))
}

/// `VmRSS` of `/proc/PID/status`, which is in KiB.
fn rss_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// What the files below `folder` occupy on the disk: a journal is a sparse file, mostly of holes.
pub(crate) fn disk_bytes(folder: &Path) -> u64 {
    // Files come and go while the nodes run.
    let entries = WalkDir::new(folder).into_iter().filter_map(Result::ok);
    entries
        .filter_map(|entry| entry.metadata().ok())
        .filter(fs::Metadata::is_file)
        .map(|file| occupied(&file))
        .sum()
}

#[cfg(unix)]
fn occupied(file: &fs::Metadata) -> u64 {
    // The unit of stat(2), whatever the file system's own.
    std::os::unix::fs::MetadataExt::blocks(file) * 512
}

#[cfg(not(unix))]
fn occupied(file: &fs::Metadata) -> u64 {
    file.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(unix)]
    fn holes_occupy_nothing() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("a")).unwrap();
        fs::write(folder.path().join("a/full"), vec![1; 100_000]).unwrap();
        fs::File::create(folder.path().join("sparse")).unwrap().set_len(1 << 30).unwrap();
        assert!(disk_bytes(folder.path()) < 1 << 20);
        assert_eq!(disk_bytes(&folder.path().join("none")), 0);
    }

    #[test]
    fn a_programs_name_does_not_confuse() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 1 2 3 4 150 50 0 0 20 0 7 0 100 1000 500";
        assert_eq!(cpu(stat, 100), Some(Duration::from_secs(2)));
        for broken in ["", "42 (a", "42 (a) S 1", "42 (a) S 1 1 1 0 -1 1 1 1 1 1 x y"] {
            assert_eq!(cpu(broken, 100), None, "{broken}");
        }
    }

    #[test]
    fn memory_is_in_bytes() {
        assert_eq!(rss_bytes("Name:\tdyn\nVmHWM:\t  9 kB\nVmRSS:\t    2048 kB\n"), Some(2 << 20));
        assert_eq!(rss_bytes("Name:\tdyn\n"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_has_used_something() {
        let own = usage(&[std::process::id()]).unwrap();
        assert!(own.rss_bytes > 100_000);
        assert!(own_cpu().unwrap() > Duration::ZERO);
        assert_eq!(usage(&[]), None);
        // No process has this id: it is over the greatest one (2^22).
        assert_eq!(usage(&[std::process::id(), u32::MAX]), None);
    }
}
