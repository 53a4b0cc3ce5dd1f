//! A small disk, on which ballast can be put and taken off again. It takes the right to mount; a test that has none
//! gets no disk, says so, and makes the fault in another way.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub struct SmallDisk {
    pub path: PathBuf,
}

impl SmallDisk {
    /// A disk of so many MiB in memory, owned by whoever owns the directory around it.
    pub fn mount(path: PathBuf, mib: u64) -> Option<SmallDisk> {
        std::fs::create_dir(&path).expect("a place for the disk");
        let around = std::fs::metadata(path.parent().unwrap_or(Path::new("/"))).expect("a directory");
        let options = format!("size={mib}m,mode=0700,uid={},gid={}", around.uid(), around.gid());
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "sluicegate-test"]).arg(&path).stderr(Stdio::null());
        if mount.status().is_ok_and(|status| status.success()) {
            return Some(SmallDisk { path });
        }
        super::loudly("NO REAL DISK IS FULL HERE: this test may not mount one (it would need root), and pretends.");
        None
    }

    pub fn fill(&self, mib: usize) {
        std::fs::write(self.path.join("ballast"), vec![1; mib << 20]).expect("ballast fits");
    }

    pub fn relieve(&self) {
        std::fs::remove_file(self.path.join("ballast")).expect("ballast was there");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // The server may still run on it.
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}
