//! Set-up: as in the parent module, with variables and files of other programs and platforms.
//! Property: what belongs to others is ignored, a misspelt name is reported, and nothing is
//! accepted that a part of the gateway refuses later. Why it matters: operators often do not see
//! where these settings come from.

use super::*;

#[test]
fn a_dotenv_file_may_be_shared_with_other_programs() {
    let text = "# of the whole project\r\n\
                this line is of no program\n\
                COMPOSE_PROJECT_NAME = shop\r\n\
                set -a; source other.env\n\
                9LIVES=cat\nQUOTE='tis open\nESCAPE=\"\\q\"\nKEY: value\nexport\n=\n\
                MOTTO=\"two\nSERVER_PORT=1\nlines\"\n\
                export SERVER_PORT='9001' # ours\r\n\
                SHARDS_COUNT=2\n";
    let directory = Directory::new(&[(".env", text)]);
    let settings = directory.load(&[]).map_err(|faults| faults.to_string()).unwrap().settings;
    assert_eq!((settings.server.address.port(), settings.shards.count), (9001, 2));
    assert!(settings.warnings.is_empty(), "{:?}", settings.warnings);

    // Lines of others may be in another encoding, but ours may not.
    std::fs::write(directory.0.join(".env"), b"CITY=K\xf6ln\nSERVER_PORT=9002\n").unwrap();
    assert_eq!(directory.load(&[]).unwrap().settings.server.address.port(), 9002);
    std::fs::write(directory.0.join(".env"), b"JWT_SECRET=hunter2\xf6\n").unwrap();
    let list = directory.load(&[]).err().unwrap().list;
    assert!(list.len() == 1 && list[0].problem.contains("not UTF-8"), "{list:?}");
    assert!(!format!("{list:?}").contains("hunter2"));

    for line in ["SERVER_PORT 9000", "SERVER_PORT: 9000", "SERVER_PORT='9000", "SERVER_TLS_KEY"] {
        let list = Directory::new(&[(".env", line)]).load(&[]).err().unwrap().list;
        assert!(list.len() == 1 && line.starts_with(&*list[0].key), "{line} {list:?}");
    }
}

#[test]
fn a_slip_in_a_name_of_the_environment_is_warned_about() {
    let directory = Directory::new(&[(".env", "OTHER=1\nSERVER_PROT=9000\n")]);
    let loaded = directory.load(&[("JWT_PUBLIC_KEY", "hunter2"), ("APIKEY", "hunter2")]).unwrap();
    let warnings = &loaded.settings.warnings;
    assert_eq!(
        warnings[..],
        [
            "SERVER_PROT (.env, line 2) is not read; is SERVER_PORT meant?",
            "APIKEY (environment) is not read; is API_KEY meant?",
            "JWT_PUBLIC_KEY (environment) is not read; is JWT_PUBLICKEY meant?",
        ]
    );
    assert!(show::effective(&loaded).contains("# warning: SERVER_PROT"));
}

#[test]
fn the_address_of_a_neighbour_is_not_a_port() {
    for link in ["tcp://10.0.0.1:8081", "udp://10.0.0.1:53", " sctp://[fd00::1]:1 "] {
        let of_variable = settings("server.port = 9000", &[("SERVER_PORT", link)]);
        let dotenv = format!("SERVER_PORT={link}\n");
        let directory = Directory::new(&[("config.toml", "server.port = 9000"), (".env", &dotenv)]);
        let of_dotenv = directory.load(&[]).unwrap().settings;
        for settings in [of_variable, of_dotenv] {
            assert_eq!(settings.server.address.port(), 9000);
            let warnings = settings.warnings;
            assert_eq!(warnings.len(), 1, "{warnings:?}");
            for word in ["SERVER_PORT", "called server", "enableServiceLinks: false"] {
                assert!(warnings[0].contains(word), "{warnings:?}");
            }
        }
    }
    for wrong in ["http://10.0.0.1:8081", "10.0.0.1:8081", "tcp:8081"] {
        assert!(one_fault("", &[("SERVER_PORT", wrong)]).problem.contains("not a whole number"));
    }
}

#[test]
fn what_a_part_would_refuse_for_ever_is_refused_here() {
    let url = |url| one_fault("", &[("REDIS_URL", url)]);
    assert!(url("rediss://u:hunter2@h/#insecure").problem.contains("redis.tls_ca"));
    assert!(!format!("{:?}", url("rediss://u:hunter2@h/#insecure")).contains("hunter2"));
    assert!(url("redis://h/not-a-number").problem.contains("cannot be used"));

    let small = "[queue]\nenabled = true\nbackend = 'disk'\nmax_disk_bytes = 4194304\n";
    let fault = one_fault(&format!("{small}[shards]\ncount = 5"), &[]);
    assert_eq!((&*fault.key, fault.origin), ("queue.max_disk_bytes", Origin::File { line: 4 }));
    assert!(fault.problem.contains("5 shards"), "{fault}");
    settings(&format!("{small}[shards]\ncount = 4"), &[]);
}

#[test]
fn the_queues_directory_is_named_in_full() {
    let file = "[queue]\nenabled = true\nbackend = 'disk'\n";
    let directory = Directory::new(&[("config.toml", file)]);
    let disk = directory.load(&[]).unwrap().settings.disk.unwrap();
    assert_eq!(disk.path, directory.0.join("data"));
    let mut sources = directory.sources(&[("ARA_CONFIG", "/dev/null")]);
    sources.directory = PathBuf::new();
    sources.environment.insert("QUEUE_ENABLED".into(), "On".into());
    sources.environment.insert("QUEUE_BACKEND".into(), "disk".into());
    let path = load(&sources).unwrap().settings.disk.unwrap().path;
    assert_eq!(path, std::env::current_dir().unwrap().join("data"));
}

#[test]
fn the_files_of_tls_to_redis_are_tried_before_the_start() {
    let empty = Directory::new(&[("empty.pem", "nothing\n"), ("key.pem", "hunter2\n")]);
    let load = |environment: &[(&str, &str)]| {
        let mut all = vec![("REDIS_URL", "rediss://h")];
        all.extend_from_slice(environment);
        empty.load(&all).map(|loaded| loaded.settings.warnings).map_err(|faults| faults.list)
    };
    for (environment, key, told) in [
        (&[("REDIS_TLS_CA", "absent.pem")][..], "redis.tls_ca", "absent.pem cannot be opened"),
        (&[("REDIS_TLS_CA", "empty.pem")], "redis.tls_ca", "empty.pem holds no certificate"),
        (&[("REDIS_TLS_CA", "-----BEGIN CERTIFICATE-----\\nAA")], "redis.tls_ca", "is PEM text"),
        (&[("REDIS_TLS_CERT", "empty.pem")], "redis.tls_cert", "it has no key"),
        (&[("REDIS_TLS_KEY", "key.pem")], "redis.tls_key", "no certificate to it"),
    ] {
        let list = load(environment).unwrap_err();
        assert_eq!((list.len(), &*list[0].key), (1, key), "{list:?}");
        assert!(list[0].problem.contains(told), "{}", list[0]);
        assert!(!format!("{list:?}").contains("hunter2"));
    }
    let unused = settings("", &[("REDIS_URL", "redis://h"), ("REDIS_TLS_CA", "absent.pem")]);
    assert!(unused.warnings[0].contains("not used"), "{:?}", unused.warnings);
}
