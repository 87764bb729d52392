//! An image that needs no registry: a static busybox, a page to serve.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::json;

/// The image's name.
pub(crate) const NAME: &str = "axon.test/box:1";

/// What is in its `/bin` beside busybox itself.
const APPLETS: [&str; 5] = ["sh", "httpd", "nc", "printf", "tail"];

/// Writes the image, as `docker save` would, to `archive`.
pub(crate) fn write(busybox: &Path, archive: &Path) {
    let mut layer = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o755);
    header.set_mtime(0);
    for dir in ["bin/", "etc/", "proc/", "sys/", "dev/", "tmp/", "www/"] {
        header.set_entry_type(tar::EntryType::Directory);
        header.set_size(0);
        layer
            .append_data(&mut header, dir, &[][..])
            .expect("directory");
    }
    let program = fs::read(busybox).expect("busybox");
    for (path, content) in [
        ("bin/busybox", &program[..]),
        ("etc/passwd", b"root:x:0:0::/:/bin/sh\n"),
        ("www/index.html", b"hello from a pod\n"),
    ] {
        header.set_entry_type(tar::EntryType::Regular);
        header.set_size(content.len() as u64);
        layer.append_data(&mut header, path, content).expect("file");
    }
    for applet in APPLETS {
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        layer
            .append_link(&mut header, format!("bin/{applet}"), "busybox")
            .expect("link");
    }
    let layer = layer.into_inner().expect("layer");
    let config = json!({
        "architecture": "amd64", "os": "linux",
        "config": {"Cmd": ["tail", "-f", "/dev/null"], "Env": ["PATH=/bin"], "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", sha256(archive, &layer))]},
        "history": [{"created_by": "test"}],
    });
    let manifest = json!([
        {"Config": "config.json", "RepoTags": [NAME], "Layers": ["layer.tar"]}
    ]);
    let mut image = tar::Builder::new(fs::File::create(archive).expect("archive"));
    header.set_entry_type(tar::EntryType::Regular);
    for (path, content) in [
        ("layer.tar", layer),
        ("config.json", config.to_string().into_bytes()),
        ("manifest.json", manifest.to_string().into_bytes()),
    ] {
        header.set_size(content.len() as u64);
        image
            .append_data(&mut header, path, &content[..])
            .expect("file");
    }
    image.finish().expect("archive");
}

fn sha256(beside: &Path, content: &[u8]) -> String {
    let file = beside.with_extension("layer");
    fs::write(&file, content).expect("layer");
    let output = Command::new("sha256sum")
        .arg(&file)
        .output()
        .expect("sha256sum runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split(' ').next().expect("a digest").to_owned()
}
