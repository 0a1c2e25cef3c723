//! Rows C8 of the fault list among them: no odd value is root by accident.

use super::*;

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
                      \n\
                      # comment\n\
                      broken:x:abc:1::/:\n\
                      huge:x:4294967295:0::/:\n\
                      app:x:1000:1001:App:/home/app:/bin/sh\n\
                      app:x:7:7::/other:\n\
                      1234:x:55:56::/named:\n\
                      other:x:1234:99::/:\n";
const GROUP: &str = "root:x:0:\nwheel:x:10:root,app\napp:x:1001:\nvideo:x:44:app\nbad:x:-1:app\n2000:x:77:\n";

fn with(request: &UserRequest) -> Result<Resolved, Error> {
    decide(request, Lines::read("/etc/passwd", PASSWD.as_bytes()), Lines::read("/etc/group", GROUP.as_bytes()))
}

fn image(user: &str) -> Result<Resolved, Error> {
    with(&UserRequest { image_user: user.to_owned(), ..UserRequest::default() })
}

fn nothing(path: &'static str) -> Lines {
    Lines { path, file: None }
}

#[test]
fn no_user_is_root() {
    let root = image("").unwrap();
    assert_eq!((root.uid, root.gid, root.groups, root.home.as_str()), (0, 0, vec![0, 10], "/root"));
    let bare = decide(&UserRequest::default(), nothing("/etc/passwd"), nothing("/etc/group")).unwrap();
    assert_eq!((bare.uid, bare.gid, bare.groups, bare.home.as_str()), (0, 0, vec![0], "/"));
}

#[test]
fn a_name_brings_its_groups_and_home() {
    let app = image("app").unwrap();
    assert_eq!((app.uid, app.gid, app.groups, app.home.as_str()), (1000, 1001, vec![1001, 10, 44], "/home/app"));
}

#[test]
fn a_number_brings_the_entry_that_has_it() {
    assert_eq!(image("1000").unwrap().gid, 1001);
    let alone = image("4711").unwrap();
    assert_eq!((alone.uid, alone.gid, alone.groups), (4711, 0, vec![0]));
}

#[test]
fn a_name_comes_before_a_number() {
    assert_eq!(image("1234").unwrap().uid, 55);
    let asked = with(&UserRequest { uid: Some(1234), ..UserRequest::default() }).unwrap();
    assert_eq!((asked.uid, asked.gid), (1234, 99));
}

#[test]
fn a_group_may_be_a_name_or_a_number() {
    assert_eq!(image("app:video").unwrap().gid, 44);
    assert_eq!(image("app:4000").unwrap().gid, 4000);
    assert_eq!(image("app:2000").unwrap().gid, 77);
    assert_eq!(image("app:").unwrap().gid, 1001);
    assert_eq!(image(":video").unwrap().uid, 0);
    assert!(matches!(image("app:nobody"), Err(Error::UnknownGroup { .. })));
    assert!(matches!(image("app:-1"), Err(Error::UnknownGroup { .. })));
}

#[test]
fn odd_values_are_refused_and_never_root() {
    for odd in
        ["4294967296", "-1", "0x0", "unknown", "+0", " 0", "0 ", "2147483648", "4294967295", "broken", "huge", "app\n"]
    {
        assert!(image(odd).is_err(), "{odd:?}");
    }
    assert!(image(&"9".repeat(1000)).is_err());
}

#[test]
fn what_the_pod_asks_for_comes_first() {
    let request = UserRequest {
        uid: Some(5),
        gid: Some(6),
        image_user: "app:video".into(),
        groups: vec![100, 6, 100],
        ..UserRequest::default()
    };
    let user = with(&request).unwrap();
    assert_eq!((user.uid, user.gid, user.groups), (5, 6, vec![6, 100]));
    // A user of the pod's own takes no group from the image's USER.
    let request = UserRequest { uid: Some(5), image_user: "app:video".into(), ..UserRequest::default() };
    assert_eq!(with(&request).unwrap().gid, 0);
}

#[test]
fn strict_groups_take_nothing_from_the_image() {
    let request = UserRequest { image_user: "app".into(), strict_groups: true, ..UserRequest::default() };
    assert_eq!(with(&request).unwrap().groups, [1001]);
}

#[test]
fn root_is_refused_when_the_pod_says_so() {
    for user in ["", "root", "0"] {
        let request = UserRequest { image_user: user.into(), non_root: true, ..UserRequest::default() };
        assert!(matches!(with(&request), Err(Error::Root)), "{user:?}");
    }
    let request = UserRequest { image_user: "app".into(), non_root: true, ..UserRequest::default() };
    assert_eq!(with(&request).unwrap().uid, 1000);
}

#[test]
fn a_file_that_is_too_large_or_has_too_long_a_line_is_refused() {
    let endless = Lines::read("/etc/passwd", std::io::repeat(b'x'));
    let result = decide(&UserRequest::default(), endless, nothing("/etc/group"));
    assert!(matches!(result, Err(Error::File { reason: "a line is too long", .. })));
    let many = Lines::read("/etc/passwd", std::io::Cursor::new("x:x:1:1\n".repeat(3 << 20)));
    let result = decide(&UserRequest::default(), many, nothing("/etc/group"));
    assert!(matches!(result, Err(Error::File { reason: "too large", .. })));
}

#[test]
fn a_fifo_or_a_link_to_one_neither_hangs_nor_counts() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("etc")).unwrap();
    let fifo = dir.path().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, rustix::fs::Mode::from_raw_mode(0o600), 0).unwrap();
    std::os::unix::fs::symlink("/fifo", dir.path().join("etc/passwd")).unwrap();
    let root = OwnedFd::from(std::fs::File::open(dir.path()).unwrap());
    assert!(matches!(resolve(&UserRequest::default(), &root), Err(Error::File { .. })));
}
