//! The `bpf(2)` calls that Aya does not offer, on descriptors and bytes.
//!
//! Every call checks the lengths of its buffers against the map's layout as
//! the kernel told it, so that no caller can make the kernel write beyond a
//! buffer.

mod batch;
mod program;

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::libc;
use zerocopy::{FromBytes, Immutable, IntoBytes};

pub(crate) use batch::has_map_batches;
pub(crate) use program::{
    Link, ProgramKind, TcxHook, cgroup_programs, has_tcx, load_program, maps_of_program,
    name_of_program, tag_of_program, tcx_programs,
};

const MAP_CREATE: libc::c_long = 0;
const MAP_LOOKUP: libc::c_long = 1;
const MAP_UPDATE: libc::c_long = 2;
const MAP_DELETE: libc::c_long = 3;
const MAP_NEXT_KEY: libc::c_long = 4;
const OBJ_PIN: libc::c_long = 6;
const OBJ_GET: libc::c_long = 7;
const OBJ_INFO: libc::c_long = 15;
const MAP_TAKE: libc::c_long = 21;

/// Open for reading only.
const F_RDONLY: u32 = 1 << 3;
/// Entries are made only if absent.
pub(crate) const NOEXIST: u64 = 1;
/// Entries are allocated when made; tries have no other way.
const F_NO_PREALLOC: u32 = 1;

#[repr(C)]
#[derive(IntoBytes, Immutable)]
struct CreateAttr {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
    inner: u32,
    numa: u32,
    name: [u8; 16],
}

#[repr(C)]
#[derive(IntoBytes, Immutable)]
struct ElementAttr {
    fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
#[derive(IntoBytes, Immutable)]
struct ObjectAttr {
    path: u64,
    fd: u32,
    flags: u32,
}

#[repr(C)]
#[derive(IntoBytes, Immutable)]
struct InfoAttr {
    fd: u32,
    len: u32,
    info: u64,
}

/// What the kernel says of a map: the head of its `bpf_map_info`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
pub(crate) struct MapInfo {
    pub(crate) kind: u32,
    pub(crate) id: u32,
    pub(crate) key_size: u32,
    pub(crate) value_size: u32,
    pub(crate) max_entries: u32,
    pub(crate) flags: u32,
}

/// The attribute is passed as it lies in memory; pointers within it must be
/// good for what `command` does with them, which each caller sees to.
fn bpf<A: IntoBytes + Immutable>(command: libc::c_long, attr: &A) -> io::Result<i32> {
    let bytes = attr.as_bytes();
    // SAFETY: `bytes` lives through the call; the callers in this module keep the buffers that
    // the attribute points to alive and as long as the kernel takes them to be.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, bytes.as_ptr(), bytes.len()) };
    match i32::try_from(result) {
        Ok(value) if value >= 0 => Ok(value),
        _ => Err(io::Error::last_os_error()),
    }
}

fn address<T>(slice: &[T]) -> u64 {
    slice.as_ptr() as u64
}

fn address_mut<T>(slice: &mut [T]) -> u64 {
    slice.as_mut_ptr() as u64
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().unsigned_abs()
}

fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor for us alone.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::from)
}

/// A map and its layout.
#[derive(Debug)]
pub(crate) struct RawMap {
    fd: OwnedFd,
    info: MapInfo,
    /// Bytes of a value as the kernel copies it: per-CPU values come for every
    /// possible CPU, each rounded up to 8.
    value_len: usize,
}

impl RawMap {
    /// Makes a map.
    pub(crate) fn create(spec: &axon_abi::MapSpec, max_entries: u32) -> io::Result<Self> {
        let mut name = [0; 16];
        for (to, from) in name.iter_mut().take(15).zip(spec.name.bytes()) {
            *to = from;
        }
        let attr = CreateAttr {
            kind: spec.kind as u32,
            key_size: spec.key_size,
            value_size: spec.value_size,
            max_entries,
            flags: map_flags(spec),
            inner: 0,
            numa: 0,
            name,
        };
        Self::from_fd(own(bpf(MAP_CREATE, &attr)?))
    }

    /// Opens a pin, which must be a map's.
    pub(crate) fn open(path: &Path, read_only: bool) -> io::Result<Self> {
        let fd = open_pin(path, if read_only { F_RDONLY } else { 0 })?;
        expect_kind(fd.as_fd(), "bpf-map")?;
        Self::from_fd(fd)
    }

    fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let mut info = MapInfo::default();
        read_info(fd.as_fd(), &mut info)?;
        let value_len = if info.kind == axon_abi::MapKind::PerCpuArray as u32 {
            (info.value_size as usize).next_multiple_of(8) * possible_cpus()?
        } else {
            info.value_size as usize
        };
        Ok(Self {
            fd,
            info,
            value_len,
        })
    }

    pub(crate) fn info(&self) -> &MapInfo {
        &self.info
    }

    /// Bytes that [`RawMap::lookup`] fills.
    pub(crate) fn value_len(&self) -> usize {
        self.value_len
    }

    fn expect(len: usize, wanted: usize) -> io::Result<()> {
        if len == wanted {
            Ok(())
        } else {
            Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{len} bytes where the map's layout has {wanted}"),
            ))
        }
    }

    fn element(&self, key: &[u8], value: u64, flags: u64) -> io::Result<ElementAttr> {
        Self::expect(key.len(), self.info.key_size as usize)?;
        Ok(ElementAttr {
            fd: number(self.fd.as_fd()),
            pad: 0,
            key: address(key),
            value,
            flags,
        })
    }

    /// Reads a value; says whether the key was there.
    pub(crate) fn lookup(&self, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
        Self::expect(value.len(), self.value_len)?;
        absent_is_false(bpf(MAP_LOOKUP, &self.element(key, address_mut(value), 0)?))
    }

    /// Writes a value.
    pub(crate) fn update(&self, key: &[u8], value: &[u8], flags: u64) -> io::Result<()> {
        Self::expect(value.len(), self.value_len)?;
        bpf(MAP_UPDATE, &self.element(key, address(value), flags)?).map(drop)
    }

    /// Removes a key; says whether it was there.
    pub(crate) fn delete(&self, key: &[u8]) -> io::Result<bool> {
        absent_is_false(bpf(MAP_DELETE, &self.element(key, 0, 0)?))
    }

    /// Reads a value and removes its key, at one moment
    /// (`BPF_MAP_LOOKUP_AND_DELETE_ELEM`, of hashes since 5.14); says whether
    /// the key was there.
    pub(crate) fn take(&self, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
        Self::expect(value.len(), self.value_len)?;
        absent_is_false(bpf(MAP_TAKE, &self.element(key, address_mut(value), 0)?))
    }

    /// The key after `key` (the first for `None`); `false` at the end.
    pub(crate) fn next_key(&self, key: Option<&[u8]>, next: &mut [u8]) -> io::Result<bool> {
        Self::expect(next.len(), self.info.key_size as usize)?;
        let to = address_mut(next);
        let attr = match key {
            Some(key) => self.element(key, to, 0)?,
            None => ElementAttr {
                fd: number(self.fd.as_fd()),
                pad: 0,
                key: 0,
                value: to,
                flags: 0,
            },
        };
        absent_is_false(bpf(MAP_NEXT_KEY, &attr))
    }

    /// Pins the map.
    pub(crate) fn pin(&self, path: &Path) -> io::Result<()> {
        pin(self.fd.as_fd(), path)
    }
}

impl AsFd for RawMap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn absent_is_false(result: io::Result<i32>) -> io::Result<bool> {
    match result {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

fn open_pin(path: &Path, flags: u32) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let attr = ObjectAttr {
        path: path.as_ptr() as u64,
        fd: 0,
        flags,
    };
    bpf(OBJ_GET, &attr).map(own)
}

/// The flags that maps of a kind are made with.
pub(crate) fn map_flags(spec: &axon_abi::MapSpec) -> u32 {
    if spec.on_demand { F_NO_PREALLOC } else { 0 }
}

/// Refuses a pin that is something else: what the kernel says of one kind of
/// object is read quite differently of another.
fn expect_kind(fd: BorrowedFd<'_>, expected: &str) -> io::Result<()> {
    let name = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
    let name = name.to_string_lossy();
    let found = name
        .trim_start_matches("anon_inode:")
        .trim_matches(['[', ']']);
    if found.replace('_', "-") == expected {
        Ok(())
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a {found} is pinned there, expected a {expected}"),
        ))
    }
}

pub(crate) fn pin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let attr = ObjectAttr {
        path: path.as_ptr() as u64,
        fd: number(fd),
        flags: 0,
    };
    bpf(OBJ_PIN, &attr).map(drop)
}

fn read_info<I: FromBytes + IntoBytes>(fd: BorrowedFd<'_>, info: &mut I) -> io::Result<()> {
    let bytes = info.as_mut_bytes();
    let len = u32::try_from(bytes.len()).unwrap_or(0);
    let attr = InfoAttr {
        fd: number(fd),
        len,
        info: address_mut(bytes),
    };
    bpf(OBJ_INFO, &attr).map(drop)
}

/// CPUs that per-CPU values have room for.
pub(crate) fn possible_cpus() -> io::Result<usize> {
    aya::util::nr_cpus().map_err(|(_, error)| error)
}

/// CPUs that run now; 1 if the kernel does not tell.
pub fn online_cpus() -> usize {
    aya::util::online_cpus().map_or(1, |cpus| cpus.len().max(1))
}

/// The cookie of the calling thread's network namespace (`SO_NETNS_COOKIE`).
pub(crate) fn netns_cookie() -> io::Result<u64> {
    let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0))?;
    let mut cookie = 0_u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the value has room for `len` bytes, and both live through the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    if result == 0 {
        Ok(cookie)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Waits until every program run that has begun is over, so that what it read
/// may be taken away.
pub(crate) fn wait_for_running_programs() {
    // The global command waits for an RCU grace period, under which programs run.
    const GLOBAL: libc::c_long = 1;
    // SAFETY: takes no pointers.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, GLOBAL, 0, 0) };
    if result != 0 {
        // Refused on machines with isolated CPUs; no program runs as long as this.
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}
