//! The layouts of `union bpf_attr`, one struct per command, and of the information the kernel returns.
use zerocopy::{FromZeros, Immutable, IntoBytes};

macro_rules! attr {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $ty:ty,)* }) => {
        $(#[$doc])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, FromZeros, IntoBytes, Immutable)]
        pub(crate) struct $name { $(pub(crate) $field: $ty,)* }
    };
}

attr! {
    /// `BPF_MAP_CREATE`.
    MapCreate {
        map_type: u32, key_size: u32, value_size: u32, max_entries: u32, map_flags: u32,
        inner_map_fd: u32, numa_node: u32, map_name: [u8; 16],
    }
}
attr! {
    /// `BPF_MAP_{LOOKUP,UPDATE,DELETE}_ELEM`, `BPF_MAP_GET_NEXT_KEY`.
    MapElem { map_fd: u32, pad: u32, key: u64, value: u64, flags: u64, }
}
attr! {
    /// `BPF_MAP_{LOOKUP,UPDATE,DELETE}_BATCH`.
    MapBatch {
        in_batch: u64, out_batch: u64, keys: u64, values: u64, count: u32, map_fd: u32, elem_flags: u64, flags: u64,
    }
}
attr! {
    /// `BPF_PROG_LOAD`.
    ProgLoad {
        prog_type: u32, insn_cnt: u32, insns: u64, license: u64, log_level: u32, log_size: u32, log_buf: u64,
        kern_version: u32, prog_flags: u32, prog_name: [u8; 16], prog_ifindex: u32, expected_attach_type: u32,
        prog_btf_fd: u32, func_info_rec_size: u32, func_info: u64, func_info_cnt: u32, line_info_rec_size: u32,
        line_info: u64, line_info_cnt: u32, attach_btf_id: u32,
    }
}
attr! {
    /// `BPF_BTF_LOAD`.
    BtfLoad { btf: u64, log_buf: u64, btf_size: u32, log_size: u32, log_level: u32, pad: u32, }
}
attr! {
    /// `BPF_MAP_FREEZE`.
    MapFreeze { map_fd: u32, }
}
attr! {
    /// `BPF_OBJ_PIN`, `BPF_OBJ_GET`.
    Obj { pathname: u64, bpf_fd: u32, file_flags: u32, }
}
attr! {
    /// `BPF_PROG_TEST_RUN`.
    TestRun {
        prog_fd: u32, retval: u32, data_size_in: u32, data_size_out: u32, data_in: u64, data_out: u64,
        repeat: u32, duration: u32, ctx_size_in: u32, ctx_size_out: u32, ctx_in: u64, ctx_out: u64,
    }
}
attr! {
    /// `BPF_OBJ_GET_INFO_BY_FD`.
    Info { bpf_fd: u32, info_len: u32, info: u64, }
}
attr! {
    /// `BPF_PROG_QUERY`.
    ProgQuery {
        target_ifindex: u32, attach_type: u32, query_flags: u32, attach_flags: u32, prog_ids: u64, prog_cnt: u32, pad: u32,
        prog_attach_flags: u64, link_ids: u64, link_attach_flags: u64, revision: u64,
    }
}
attr! {
    /// `BPF_LINK_CREATE` for a device or a control group.
    LinkCreate {
        prog_fd: u32, target: u32, attach_type: u32, flags: u32, relative: u32, pad: u32, expected_revision: u64,
    }
}
attr! {
    /// `BPF_LINK_UPDATE`.
    LinkUpdate { link_fd: u32, new_prog_fd: u32, flags: u32, old_prog_fd: u32, }
}
attr! {
    /// `BPF_LINK_DETACH`.
    LinkDetach { link_fd: u32, }
}
attr! {
    /// `struct bpf_map_info`, as far as it is read.
    MapInfo {
        kind: u32, id: u32, key_size: u32, value_size: u32, max_entries: u32, map_flags: u32, name: [u8; 16],
    }
}
attr! {
    /// `struct bpf_link_info`; `what` depends on the kind.
    LinkInfo { kind: u32, id: u32, prog_id: u32, pad: u32, what: [u32; 4], }
}
attr! {
    /// `struct bpf_prog_info`, as far as it is read.
    ProgInfo {
        kind: u32, id: u32, tag: [u8; 8], jited_len: u32, xlated_len: u32, jited_insns: u64, xlated_insns: u64,
        load_time: u64, created_by_uid: u32, nr_map_ids: u32, map_ids: u64, name: [u8; 16], ifindex: u32, gpl: u32,
        netns_dev: u64, netns_ino: u64, nr_jited_ksyms: u32, nr_jited_func_lens: u32, jited_ksyms: u64,
        jited_func_lens: u64, btf_id: u32, func_info_rec_size: u32, func_info: u64, nr_func_info: u32, nr_line_info: u32,
        line_info: u64, jited_line_info: u64, nr_jited_line_info: u32, line_info_rec_size: u32,
        jited_line_info_rec_size: u32, nr_prog_tags: u32, prog_tags: u64, run_time_ns: u64, run_cnt: u64,
        recursion_misses: u64, verified_insns: u32, attach_btf_obj_id: u32,
    }
}
