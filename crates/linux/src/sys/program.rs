//! Programs and their links to devices and cgroups.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use aya_obj::generated::bpf_prog_type;
use nix::libc;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{address, address_mut, bpf, expect_kind, number, open_pin, own, pin, read_info};

const LINK_CREATE: libc::c_long = 28;
const LINK_UPDATE: libc::c_long = 29;
const LINK_DETACH: libc::c_long = 34;
/// Put the program before all others of the hook.
const F_BEFORE: u32 = 1 << 3;

/// Attach types of tcx.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum TcxHook {
    Ingress = 46,
    Egress = 47,
}

#[repr(C)]
#[derive(IntoBytes, Immutable)]
struct LinkAttr {
    a: u32,
    b: u32,
    c: u32,
    d: u32,
    relative: u64,
    revision: u64,
}

/// What the kernel says of a tcx link: the head of its `bpf_link_info`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
pub(crate) struct LinkInfo {
    pub(crate) kind: u32,
    pub(crate) id: u32,
    pub(crate) program: u32,
    pad: u32,
    /// 0 when the device is gone.
    pub(crate) ifindex: u32,
    pub(crate) attach_type: u32,
}

/// What the kernel says of a cgroup's link: the head of its `bpf_link_info`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
pub(crate) struct CgroupLinkInfo {
    kind: u32,
    pub(crate) id: u32,
    pub(crate) program: u32,
    pad: u32,
    /// 0 when the group is gone, or the program was taken off.
    pub(crate) cgroup: u64,
    pub(crate) attach_type: u32,
    pad2: u32,
}

/// A link of a program to a device by tcx, or to a cgroup.
#[derive(Debug)]
pub(crate) struct Link(OwnedFd);

impl Link {
    /// Attaches a program to a device before all others of the hook.
    pub(crate) fn create(program: BorrowedFd<'_>, ifindex: u32, hook: TcxHook) -> io::Result<Self> {
        let attr = LinkAttr {
            a: number(program),
            b: ifindex,
            c: hook as u32,
            d: F_BEFORE,
            relative: 0,
            revision: 0,
        };
        bpf(LINK_CREATE, &attr).map(own).map(Self)
    }

    /// Attaches a program to a cgroup behind all others of the hook. It sees the
    /// sockets of the group and of those below.
    pub(crate) fn create_at_cgroup(
        program: BorrowedFd<'_>,
        cgroup: BorrowedFd<'_>,
        attach_type: u32,
    ) -> io::Result<Self> {
        let attr = LinkAttr {
            a: number(program),
            b: number(cgroup),
            c: attach_type,
            d: 0,
            relative: 0,
            revision: 0,
        };
        bpf(LINK_CREATE, &attr).map(own).map(Self)
    }

    /// As [`Self::info`], of a cgroup's link.
    pub(crate) fn cgroup_info(&self) -> io::Result<CgroupLinkInfo> {
        let mut info = CgroupLinkInfo::default();
        read_info(self.0.as_fd(), &mut info)?;
        Ok(info)
    }

    /// Opens a pin, which must be a link's.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let fd = open_pin(path, 0)?;
        expect_kind(fd.as_fd(), "bpf-link")?;
        Ok(Self(fd))
    }

    pub(crate) fn pin(&self, path: &Path) -> io::Result<()> {
        pin(self.0.as_fd(), path)
    }

    pub(crate) fn info(&self) -> io::Result<LinkInfo> {
        let mut info = LinkInfo::default();
        read_info(self.0.as_fd(), &mut info)?;
        Ok(info)
    }

    /// Replaces the program; no packet sees none.
    pub(crate) fn update(&self, program: BorrowedFd<'_>) -> io::Result<()> {
        let (a, b) = (number(self.0.as_fd()), number(program));
        bpf(LINK_UPDATE, &[a, b, 0, 0]).map(drop)
    }

    /// Takes the program off the device, whoever else holds the link.
    pub(crate) fn detach(&self) -> io::Result<()> {
        bpf(LINK_DETACH, &[number(self.0.as_fd())]).map(drop)
    }
}

/// What the kernel says of a program: the head of its `bpf_prog_info`.
#[repr(C)]
#[derive(Default, FromBytes, IntoBytes, Immutable)]
struct ProgramInfo {
    kind: u32,
    id: u32,
    tag: [u8; 8],
    jited_len: u32,
    translated_len: u32,
    jited: u64,
    translated: u64,
    load_time_ns: u64,
    uid: u32,
    map_count: u32,
    map_ids: u64,
    name: [u8; 16],
}

fn program_by_id(id: u32) -> io::Result<OwnedFd> {
    const PROG_GET_FD_BY_ID: libc::c_long = 13;
    bpf(PROG_GET_FD_BY_ID, &[id, 0, 0]).map(own)
}

/// What the kernel calls a program by its instructions, by the program's id.
pub(crate) fn tag_of_program(id: u32) -> io::Result<u64> {
    let mut info = ProgramInfo::default();
    read_info(program_by_id(id)?.as_fd(), &mut info)?;
    Ok(u64::from_be_bytes(info.tag))
}

/// The name that its loader gave a program, by the program's id; empty for none.
pub(crate) fn name_of_program(id: u32) -> io::Result<String> {
    let mut info = ProgramInfo::default();
    read_info(program_by_id(id)?.as_fd(), &mut info)?;
    let name = info.name.split(|byte| *byte == 0).next().unwrap_or(&[]);
    Ok(String::from_utf8_lossy(name).into_owned())
}

/// Ids of the maps that a program uses, by the program's id.
pub(crate) fn maps_of_program(id: u32) -> io::Result<Vec<u32>> {
    /// More than any program of ours uses.
    const MAPS_MAX: usize = 256;
    let fd = program_by_id(id)?;
    let mut ids = vec![0_u32; MAPS_MAX];
    let mut info = ProgramInfo {
        map_count: u32::try_from(ids.len()).unwrap_or(0),
        map_ids: address_mut(&mut ids),
        ..ProgramInfo::default()
    };
    read_info(fd.as_fd(), &mut info)?;
    ids.truncate(info.map_count as usize);
    Ok(ids)
}

#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable)]
struct QueryAttr {
    ifindex: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    pad: u32,
    program_flags: u64,
    link_ids: u64,
    link_flags: u64,
    revision: u64,
}

impl QueryAttr {
    fn new(ifindex: u32, hook: TcxHook) -> Self {
        Self {
            ifindex,
            attach_type: hook as u32,
            query_flags: 0,
            attach_flags: 0,
            ids: 0,
            count: 0,
            pad: 0,
            program_flags: 0,
            link_ids: 0,
            link_flags: 0,
            revision: 0,
        }
    }
}

const PROG_QUERY: libc::c_long = 16;

/// Whether the kernel knows tcx: it can be asked what hangs on the loopback
/// device.
pub(crate) fn has_tcx() -> bool {
    bpf(PROG_QUERY, &QueryAttr::new(1, TcxHook::Ingress)).is_ok()
}

/// A program at a tcx hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TcxProgram {
    pub(crate) id: u32,
    /// The link that holds it; 0 where none does.
    pub(crate) link: u32,
}

/// The programs of a hook, in the order in which they run.
pub(crate) fn tcx_programs(ifindex: u32, hook: TcxHook) -> io::Result<Vec<TcxProgram>> {
    /// The kernel has no more at a hook (`BPF_MPROG_MAX`).
    const PROGRAMS_MAX: usize = 64;
    let (mut ids, mut links) = ([0_u32; PROGRAMS_MAX], [0_u32; PROGRAMS_MAX]);
    let mut attr = QueryAttr {
        ids: address_mut(&mut ids),
        link_ids: address_mut(&mut links),
        count: u32::try_from(PROGRAMS_MAX).unwrap_or(0),
        ..QueryAttr::new(ifindex, hook)
    };
    query(&mut attr)?;
    let programs = ids.into_iter().zip(links).take(attr.count as usize);
    Ok(programs.map(|(id, link)| TcxProgram { id, link }).collect())
}

/// Ids of the programs that sockets of a cgroup meet at a hook, in the order in
/// which they run: its own and those of the groups above.
pub(crate) fn cgroup_programs(cgroup: BorrowedFd<'_>, attach_type: u32) -> io::Result<Vec<u32>> {
    /// The kernel has no more in a group (`BPF_CGROUP_MAX_PROGS`); groups nest.
    const PROGRAMS_MAX: usize = 256;
    const EFFECTIVE: u32 = 1;
    let mut ids = [0_u32; PROGRAMS_MAX];
    let mut attr = QueryAttr {
        ifindex: number(cgroup),
        attach_type,
        query_flags: EFFECTIVE,
        ids: address_mut(&mut ids),
        count: u32::try_from(PROGRAMS_MAX).unwrap_or(0),
        ..QueryAttr::new(0, TcxHook::Ingress)
    };
    query(&mut attr)?;
    Ok(ids.into_iter().take(attr.count as usize).collect())
}

/// Asks what hangs at a hook. The arrays that the attribute names have room for
/// `count` numbers and live through the call, which each caller sees to.
fn query(attr: &mut QueryAttr) -> io::Result<()> {
    let bytes = attr.as_mut_bytes();
    // SAFETY: the arrays are as the callers in this module make them; the kernel writes the number
    // of ids back into the attribute, which is ours alone.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, PROG_QUERY, bytes.as_mut_ptr(), bytes.len()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[repr(C)]
#[derive(IntoBytes, Immutable)]
struct LoadAttr {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    ifindex: u32,
    attach_type: u32,
}

/// What a program is for, with the kernel's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProgramKind {
    /// A `bpf_prog_type`.
    pub(crate) kind: u32,
    /// A `bpf_attach_type`; 0 where none is expected.
    pub(crate) attach_type: u32,
}

impl ProgramKind {
    /// A program at a device.
    pub(crate) const CLASSIFIER: Self = Self {
        kind: bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS as u32,
        attach_type: 0,
    };
}

/// Loads a program for the verifier's statistics, which go to `log`.
pub(crate) fn load_program(
    kind: ProgramKind,
    instructions: &[u8],
    license: &std::ffi::CStr,
    log: &mut [u8],
) -> io::Result<OwnedFd> {
    const PROG_LOAD: libc::c_long = 5;
    const STATISTICS: u32 = 4;
    const INSTRUCTION_LEN: usize = 8;
    let attr = LoadAttr {
        kind: kind.kind,
        count: u32::try_from(instructions.len() / INSTRUCTION_LEN).unwrap_or(u32::MAX),
        instructions: address(instructions),
        license: license.as_ptr() as u64,
        log_level: STATISTICS,
        log_size: u32::try_from(log.len()).unwrap_or(u32::MAX),
        log: address_mut(log),
        kernel_version: 0,
        flags: 0,
        name: [0; 16],
        ifindex: 0,
        attach_type: kind.attach_type,
    };
    bpf(PROG_LOAD, &attr).map(own)
}
