//! What a rule is, and how it is held against the sources and against its own examples.

use std::collections::BTreeSet;

use crate::facts::{Facts, What};
use crate::names::Segments;
use crate::sources::{Source, Sources, lies_in};

/// A rule about code.
pub(crate) struct Rule {
    /// What holds.
    pub(crate) name: &'static str,
    /// Why it holds.
    pub(crate) why: &'static str,
    /// The files and folders it is about.
    pub(crate) within: &'static [&'static str],
    /// The files and folders in them that do what is banned elsewhere.
    pub(crate) except: &'static [&'static str],
    /// What is banned.
    pub(crate) bans: &'static [Ban],
    /// Files that break the rule.
    pub(crate) caught: &'static [&'static str],
    /// Files that keep it, though they look similar.
    pub(crate) passed: &'static [&'static str],
}

/// Something code may not say.
#[derive(Debug)]
pub(crate) enum Ban {
    /// A path that begins with one of these, unless it begins with one of `but`.
    Paths { banned: &'static [&'static str], but: &'static [&'static str] },
    /// A macro of the standard library.
    Macros(&'static [&'static str]),
    /// A call of a method of this name, whatever its receiver.
    Methods(&'static [&'static str]),
    /// A text, or a constant named like it (`A_B` is `a-b`), that contains one of these.
    Texts(&'static [&'static str]),
    /// `async` and `.await`.
    Async,
    /// `static mut`.
    StaticMut,
    /// An owner `by` of something `mutable`, or of a type of the same crate that contains it. The
    /// types named in `but` count as not mutable.
    Shares {
        by: &'static [&'static str],
        mutable: &'static [&'static str],
        but: &'static [&'static str],
    },
    /// A module head that lacks one of these.
    HeadWithout(&'static [&'static str]),
}

impl Rule {
    /// Everything that breaks this rule or makes it ineffective.
    pub(crate) fn faults(&self, sources: &Sources) -> Vec<String> {
        let mut faults = Vec::new();
        for place in self.within.iter().chain(self.except) {
            if sources.at(place).next().is_none() {
                faults.push(format!("{place}: no file is there; the rule names it"));
            }
        }
        let all: Vec<&Source> = self.within.iter().flat_map(|place| sources.at(place)).collect();
        let files: Vec<_> = all.iter().map(|s| (s.path.as_str(), &s.facts)).collect();
        let found = findings(self.bans, &files);
        for place in self.except {
            if !found.iter().any(|finding| lies_in(finding.path, place)) {
                faults.push(format!("{place}: is an exception, but needs none"));
            }
        }
        for ban in self.bans {
            faults.extend(ban.stale_names(&all, sources));
        }
        for finding in found {
            if !self.except.iter().any(|place| lies_in(finding.path, place)) {
                faults.push(format!("{}:{}: {}", finding.path, finding.line, finding.what));
            }
        }
        faults
    }

    /// The examples that this rule does not judge as it should, and the bans that no example needs.
    pub(crate) fn misjudged(&self) -> Vec<String> {
        let facts_of = |example: &&str| {
            let file =
                syn::parse_file(example).unwrap_or_else(|error| panic!("{example}: {error}"));
            Facts::of(&file, ["crate", "part", "example"].map(str::to_owned).to_vec())
        };
        let found =
            |example: &&str, bans: &[Ban]| !findings(bans, &[("", &facts_of(example))]).is_empty();
        let missed = self.caught.iter().filter(|example| !found(example, self.bans));
        let wronged = self.passed.iter().filter(|example| found(example, self.bans));
        let idle = self.bans.iter().filter(|ban| {
            !self.caught.iter().any(|example| found(example, std::slice::from_ref(ban)))
        });
        missed
            .map(|example| format!("is not caught: {example}"))
            .chain(wronged.map(|example| format!("is caught, though right: {example}")))
            .chain(idle.map(|ban| format!("no example breaks {ban:?}")))
            .collect()
    }
}

/// What the bans find in these files, which are one crate.
fn findings<'a>(bans: &[Ban], files: &[(&'a str, &Facts)]) -> Vec<Finding<'a>> {
    let mut found = Vec::new();
    for ban in bans {
        let mutable = ban.mutable_types(files);
        for (path, facts) in files {
            if let Some(what) = ban.missing_in_head(&facts.head) {
                found.push(Finding { path, line: 1, what });
            }
            for fact in &facts.facts {
                if let Some(what) = ban.finds(&fact.what, &mutable) {
                    found.push(Finding { path, line: fact.line, what });
                }
            }
        }
    }
    found
}

struct Finding<'a> {
    path: &'a str,
    line: usize,
    what: String,
}

impl Ban {
    fn finds(&self, said: &What, mutable_types: &BTreeSet<String>) -> Option<String> {
        match (self, said) {
            (Self::Paths { banned, but }, What::Path(path)) => {
                (is_one_of(path, banned) && !is_one_of(path, but)).then(|| path.join("::"))
            }
            (Self::Macros(banned), What::Macro(path)) => {
                let name = path.strip_prefix(&["std".to_owned()][..]).unwrap_or(path).join("::");
                banned.contains(&name.as_str()).then(|| format!("{name}!"))
            }
            (Self::Methods(banned), What::Method(name)) => {
                banned.contains(&name.as_str()).then(|| format!(".{name}()"))
            }
            (Self::Texts(banned), What::Text(text)) => {
                let text = text.to_ascii_lowercase();
                let found = banned.iter().find(|banned| text.contains(**banned));
                found.map(|banned| format!("a text with {banned}"))
            }
            (Self::Texts(banned), What::Path(path)) => {
                let name = path.last()?;
                let text = name.to_ascii_lowercase().replace('_', "-");
                let is_constant = *name == name.to_ascii_uppercase();
                (is_constant && banned.iter().any(|banned| text.contains(banned)))
                    .then(|| name.clone())
            }
            (Self::Async, What::Async) => Some("async".to_owned()),
            (Self::StaticMut, What::StaticMut) => Some("static mut".to_owned()),
            (Self::Shares { by, mutable, .. }, What::Holds { outer, inside }) => {
                let changing = inside.iter().find(|path| {
                    is_one_of(path, mutable)
                        || path.last().is_some_and(|name| mutable_types.contains(name))
                });
                let changing = changing.filter(|_| is_one_of(outer, by))?;
                Some(format!("{} of {}", outer.join("::"), changing.join("::")))
            }
            _ => None,
        }
    }

    fn missing_in_head(&self, head: &str) -> Option<String> {
        let Self::HeadWithout(parts) = self else { return None };
        let missing = parts.iter().find(|part| !head.contains(**part))?;
        Some(format!("the module head lacks {missing}"))
    }

    /// The types of these files that contain something mutable, however deep.
    fn mutable_types(&self, files: &[(&str, &Facts)]) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let Self::Shares { mutable, but, .. } = self else { return found };
        loop {
            let before = found.len();
            for fact in files.iter().flat_map(|(_, facts)| &facts.facts) {
                let What::Defines { name, of } = &fact.what else { continue };
                let changes = of.iter().any(|path| {
                    is_one_of(path, mutable)
                        || path.last().is_some_and(|part| part != name && found.contains(part))
                });
                if changes && !but.contains(&name.as_str()) {
                    found.insert(name.clone());
                }
            }
            if found.len() == before {
                return found;
            }
        }
    }

    /// What this ban names and nothing has any more, so that it would say nothing.
    fn stale_names(&self, within: &[&Source], crates: &Sources) -> Vec<String> {
        let facts = || within.iter().flat_map(|source| &source.facts.facts);
        match self {
            Self::Paths { banned, but } => {
                let own = banned.iter().chain(*but).filter(|path| path.starts_with("crate::"));
                let gone = own.filter(|path| {
                    let module: Segments = path.split("::").take(2).map(str::to_owned).collect();
                    !within.iter().any(|source| crates.have(source.root, &module))
                });
                let unused = but.iter().filter(|path| {
                    !facts().any(|f| matches!(&f.what, What::Path(said) if begins(said, path)))
                });
                gone.map(|path| format!("{path}: no module has this name; the rule names it"))
                    .chain(unused.map(|path| format!("{path}: is allowed, but nothing uses it")))
                    .collect()
            }
            Self::Shares { but, .. } => {
                let gone = but.iter().filter(|allowed| {
                    !facts()
                        .any(|f| matches!(&f.what, What::Defines { name, .. } if name == *allowed))
                });
                gone.map(|name| format!("{name}: is allowed, but no type has this name")).collect()
            }
            _ => Vec::new(),
        }
    }
}

/// Whether `path` is, or begins with, one of `prefixes`.
fn is_one_of(path: &[String], prefixes: &[&str]) -> bool {
    prefixes.iter().any(|prefix| begins(path, prefix))
}

fn begins(path: &[String], prefix: &str) -> bool {
    let mut segments = path.iter();
    prefix.split("::").all(|part| segments.next().is_some_and(|segment| segment == part))
}
