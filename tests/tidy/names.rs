//! What a path in a source file means: `use` declarations, renames, globs, `self` and `super`
//! are followed, so that a rule is about `std::fs::write` however the file spells it.
//!
//! A name that is imported through another file's `pub use` is not followed: the rules see that
//! declaration where it stands.

use std::collections::{BTreeMap, BTreeSet};

use syn::{Item, Stmt, UseTree};

/// A path as its segments, without generic arguments.
pub(crate) type Segments = Vec<String>;

/// Stands for a glob among the aliases that are being followed.
const GLOB: &str = "*";

/// One leaf of a `use` declaration.
pub(crate) struct Import {
    pub(crate) path: Segments,
    /// The name it has in this scope; none for a glob and for `as _`.
    name: Option<String>,
    glob: bool,
    pub(crate) line: usize,
}

/// The names one module or one block declares and imports.
struct Scope {
    module: Segments,
    /// A module sees nothing of what stands around it; a block sees everything.
    is_module: bool,
    aliases: BTreeMap<String, Segments>,
    globs: Vec<Segments>,
    declared: BTreeSet<String>,
}

/// The scopes around the place that is being read, outermost first.
#[derive(Default)]
pub(crate) struct Names {
    scopes: Vec<Scope>,
}

impl Names {
    /// Enters a module; `module` is its path from `crate` on.
    pub(crate) fn enter_module(&mut self, module: Segments, items: &[Item]) {
        self.enter(module, true, items.iter());
    }

    /// Enters a module inside the present one.
    pub(crate) fn enter_inline_module(&mut self, name: &str, items: &[Item]) {
        let mut module = self.module();
        module.push(name.to_owned());
        self.enter(module, true, items.iter());
    }

    /// Enters a block, which sees what stands around it.
    pub(crate) fn enter_block(&mut self, statements: &[Stmt]) {
        let items = statements.iter().filter_map(|statement| match statement {
            Stmt::Item(item) => Some(item),
            _ => None,
        });
        self.enter(self.module(), false, items);
    }

    /// Leaves what was entered last.
    pub(crate) fn leave(&mut self) {
        self.scopes.pop();
    }

    /// The path of the present module.
    pub(crate) fn module(&self) -> Segments {
        self.scopes.last().map(|scope| scope.module.clone()).unwrap_or_default()
    }

    /// Everything `path` may mean here. More than one where a glob could have brought the name; a
    /// single name that nothing declares or imports means nothing: it is a variable or a prelude
    /// name.
    pub(crate) fn resolve(&self, path: &[String], from_root: bool) -> Vec<Segments> {
        let mut meanings = if from_root {
            vec![path.to_vec()]
        } else {
            self.follow(self.scopes.len(), path, &mut Vec::new())
        };
        if !from_root && path.len() == 1 {
            meanings.retain(|meaning| meaning != path);
        }
        canonical(meanings)
    }

    /// What an import means; a single name is a crate here.
    pub(crate) fn resolve_import(&self, import: &Import) -> Vec<Segments> {
        let mut expanding = import.name.iter().cloned().collect();
        canonical(self.follow(self.scopes.len(), &import.path, &mut expanding))
    }

    fn enter<'a>(
        &mut self,
        module: Segments,
        is_module: bool,
        items: impl Iterator<Item = &'a Item>,
    ) {
        let mut scope = Scope {
            module,
            is_module,
            aliases: BTreeMap::new(),
            globs: Vec::new(),
            declared: BTreeSet::new(),
        };
        for item in items {
            match item {
                Item::Use(item) => {
                    for import in imports(&item.tree) {
                        if import.glob {
                            scope.globs.push(import.path);
                        } else if let Some(name) = import.name {
                            scope.aliases.insert(name, import.path);
                        }
                    }
                }
                Item::ExternCrate(item) => {
                    if let Some((_, name)) = &item.rename {
                        scope.aliases.insert(name.to_string(), vec![item.ident.to_string()]);
                    }
                }
                item => scope.declared.extend(declared_name(item)),
            }
        }
        self.scopes.push(scope);
    }

    /// Resolves `path` as seen from the first `depth` scopes. `expanding` holds the aliases that
    /// are being followed: `use redis::redis` must not be followed for ever, nor a glob through
    /// itself.
    fn follow(&self, depth: usize, path: &[String], expanding: &mut Vec<String>) -> Vec<Segments> {
        let Some((first, rest)) = path.split_first() else { return Vec::new() };
        let mut module = self.scopes.get(depth - 1).map(|s| s.module.clone()).unwrap_or_default();
        match first.as_str() {
            "crate" => return vec![path.to_vec()],
            "self" if !rest.is_empty() => {
                module.extend_from_slice(rest);
                return vec![module];
            }
            "super" => {
                let above = path.iter().take_while(|segment| *segment == "super").count();
                module.truncate(module.len().saturating_sub(above));
                let name = path.get(above..).unwrap_or_default();
                module.extend_from_slice(name);
                return vec![module];
            }
            _ => {}
        }
        let in_glob = expanding.iter().any(|name| name == GLOB);
        let mut meanings = Vec::new();
        for (index, scope) in self.scopes.iter().enumerate().take(depth).rev() {
            if !expanding.contains(first)
                && let Some(target) = scope.aliases.get(first)
            {
                expanding.push(first.clone());
                let mut targets = self.follow(index + 1, target, expanding);
                expanding.pop();
                targets.iter_mut().for_each(|target| target.extend_from_slice(rest));
                return targets;
            }
            if scope.declared.contains(first) {
                let mut meaning = scope.module.clone();
                meaning.extend_from_slice(path);
                return vec![meaning];
            }
            let mut sees_outer = !scope.is_module;
            let globs: &[Segments] = if in_glob { &[] } else { &scope.globs };
            for glob in globs {
                expanding.push(GLOB.to_owned());
                let prefixes = self.follow(index + 1, glob, expanding);
                expanding.pop();
                for mut prefix in prefixes {
                    sees_outer |= index
                        .checked_sub(1)
                        .and_then(|outer| self.scopes.get(outer))
                        .is_some_and(|outer| outer.module == prefix);
                    prefix.extend_from_slice(path);
                    meanings.push(prefix);
                }
            }
            if !sees_outer {
                break;
            }
        }
        meanings.push(path.to_vec());
        meanings
    }
}

/// `core` and `alloc` are parts of `std`.
fn canonical(mut meanings: Vec<Segments>) -> Vec<Segments> {
    for first in meanings.iter_mut().filter_map(|meaning| meaning.first_mut()) {
        if first == "core" || first == "alloc" {
            "std".clone_into(first);
        }
    }
    meanings
}

/// The leaves of a `use` declaration.
pub(crate) fn imports(tree: &UseTree) -> Vec<Import> {
    let mut found = Vec::new();
    gather(tree, &mut Vec::new(), &mut found);
    found
}

fn gather(tree: &UseTree, prefix: &mut Segments, found: &mut Vec<Import>) {
    let mut leaf = |name: &syn::Ident, known_as: Option<String>| {
        let mut path = prefix.clone();
        // `use std::fs::{self}` imports the prefix itself.
        if name != "self" || path.is_empty() {
            path.push(name.to_string());
        }
        let known_as = known_as.or_else(|| path.last().cloned()).filter(|name| name != "_");
        found.push(Import { path, name: known_as, glob: false, line: name.span().start().line });
    };
    match tree {
        UseTree::Name(name) => leaf(&name.ident, None),
        UseTree::Rename(rename) => leaf(&rename.ident, Some(rename.rename.to_string())),
        UseTree::Glob(glob) => found.push(Import {
            path: prefix.clone(),
            name: None,
            glob: true,
            line: glob.star_token.spans.first().map_or(0, |span| span.start().line),
        }),
        UseTree::Path(path) => {
            prefix.push(path.ident.to_string());
            gather(&path.tree, prefix, found);
            prefix.pop();
        }
        UseTree::Group(group) => {
            for tree in &group.items {
                gather(tree, prefix, found);
            }
        }
    }
}

fn declared_name(item: &Item) -> Option<String> {
    let name = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Mod(item) => &item.ident,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::TraitAlias(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Union(item) => &item.ident,
        _ => return None,
    };
    Some(name.to_string())
}
