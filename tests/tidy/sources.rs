//! The sources of the repository: as files, and as the modules that the crates make of them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use syn::{Attribute, Expr, Item};

use crate::facts::{Facts, is_for_tests};
use crate::names::Segments;

/// The roots of the crates whose modules are read.
const ROOTS: &[&str] = &["src/lib.rs", "src/main.rs", "shards/src/lib.rs", "benches/src/main.rs"];

/// A file that is compiled into a crate, and not only for its tests.
pub(crate) struct Source {
    /// From the repository's root on.
    pub(crate) path: String,
    pub(crate) text: String,
    /// The root of its crate.
    pub(crate) root: &'static str,
    /// Its path in the crate, from `crate` on.
    pub(crate) module: Segments,
    pub(crate) facts: Facts,
}

/// What the crates are made of.
pub(crate) struct Sources {
    pub(crate) shipped: Vec<Source>,
    /// The files that only tests use.
    pub(crate) tests: BTreeSet<String>,
}

/// The repository's root.
pub(crate) fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The text of a file of the repository.
pub(crate) fn read(path: &str) -> String {
    fs::read_to_string(repository().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All files below `folder` whose name ends with `ending`, from the repository's root on.
pub(crate) fn files_below(folder: &str, ending: &str) -> Vec<String> {
    const INSTALLED: [&str; 3] = ["target", "node_modules", ".venv"];
    let mut found = Vec::new();
    let mut folders = vec![repository().join(folder)];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder);
        for entry in entries.unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy();
            if path.is_dir() {
                if !INSTALLED.contains(&&*name) {
                    folders.push(path);
                }
            } else if name.ends_with(ending) {
                found.push(relative(&path));
            }
        }
    }
    found.sort();
    found
}

fn relative(path: &Path) -> String {
    path.strip_prefix(repository()).unwrap().to_string_lossy().into_owned()
}

impl Sources {
    /// Follows every `mod` from the roots on.
    pub(crate) fn read() -> Self {
        let mut sources = Self { shipped: Vec::new(), tests: BTreeSet::new() };
        for root in ROOTS {
            sources.follow(root, root, vec!["crate".to_owned()], false);
        }
        sources
    }

    /// The shipped files that are `place` or lie below it.
    pub(crate) fn at<'a>(&'a self, place: &'a str) -> impl Iterator<Item = &'a Source> {
        self.shipped.iter().filter(move |source| lies_in(&source.path, place))
    }

    /// Whether the crate of `root` has this module in a file of its own.
    pub(crate) fn have(&self, root: &str, module: &[String]) -> bool {
        self.shipped.iter().any(|source| source.root == root && source.module == module)
    }

    fn follow(&mut self, root: &'static str, path: &str, module: Segments, for_tests: bool) {
        let text = read(path);
        let file = syn::parse_file(&text).unwrap_or_else(|error| panic!("{path}: {error}"));
        let file_path = Path::new(path);
        let folder = file_path.parent().unwrap();
        let stem = file_path.file_stem().unwrap();
        // A root and a `mod.rs` keep their modules beside them, other files in a folder of their name.
        let own_folder =
            if module.len() == 1 || stem == "mod" { folder.to_owned() } else { folder.join(stem) };
        let mut modules = Vec::new();
        find_modules(&file.items, &module, for_tests, [folder, &own_folder], &mut modules);
        if for_tests || is_for_tests(&file.attrs) {
            self.tests.insert(path.to_owned());
        } else {
            let facts = Facts::of(&file, module.clone());
            self.shipped.push(Source { path: path.to_owned(), text, root, module, facts });
        }
        for module in modules {
            let file = module.files.iter().find(|file| repository().join(file).is_file());
            let file =
                file.unwrap_or_else(|| panic!("{path}: {} not found", module.path.join("::")));
            self.follow(root, &file.to_string_lossy(), module.path, module.for_tests);
        }
    }
}

/// A module that stands in a file of its own.
struct Elsewhere {
    path: Segments,
    files: Vec<PathBuf>,
    for_tests: bool,
}

/// Collects the modules that stand in other files; `at` is where `#[path]` begins, and where the
/// module's files lie otherwise.
fn find_modules(
    items: &[Item],
    module: &Segments,
    for_tests: bool,
    at: [&Path; 2],
    found: &mut Vec<Elsewhere>,
) {
    let [beside, below] = at;
    for item in items {
        let Item::Mod(item) = item else { continue };
        let name = item.ident.to_string();
        let for_tests = for_tests || is_for_tests(&item.attrs);
        let mut path = module.clone();
        path.push(name.clone());
        if let Some((_, items)) = &item.content {
            let inside = below.join(named_file(&item.attrs).unwrap_or(name));
            find_modules(items, &path, for_tests, [&inside, &inside], found);
        } else {
            let files = match named_file(&item.attrs) {
                Some(file) => vec![beside.join(file)],
                None => {
                    vec![below.join(format!("{name}.rs")), below.join(name).join("mod.rs")]
                }
            };
            found.push(Elsewhere { path, files, for_tests });
        }
    }
}

fn named_file(attributes: &[Attribute]) -> Option<String> {
    attributes.iter().find_map(|attribute| {
        let syn::Meta::NameValue(pair) = &attribute.meta else { return None };
        let Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(file), .. }) = &pair.value else {
            return None;
        };
        pair.path.is_ident("path").then(|| file.value())
    })
}

/// Whether `path` is `place`, or a file below the folder `place`.
pub(crate) fn lies_in(path: &str, place: &str) -> bool {
    let rest = path.strip_prefix(place);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || place.ends_with('/'))
}
