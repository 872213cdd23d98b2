//! What a source file says, as far as the rules ask: one visit over its syntax, without its tests.

use proc_macro2::{LineColumn, Span, TokenStream, TokenTree};
use syn::parse::Parser;
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Attribute, Block, Expr, Item, Token};

use crate::names::{Names, Segments, imports};

/// Something the shipped code says, and where.
#[derive(Debug)]
pub(crate) struct Fact {
    pub(crate) line: usize,
    pub(crate) what: What,
}

/// What is said; paths are resolved.
#[derive(Debug)]
pub(crate) enum What {
    /// A path: imported, called, or named as a type.
    Path(Segments),
    /// A macro is called.
    Macro(Segments),
    /// A literal text stands there.
    Text(String),
    /// A method of this name is called.
    Method(String),
    /// A type with arguments, `outer<inside>`, or a call, `outer(inside)`.
    Holds { outer: Segments, inside: Vec<Segments> },
    /// A type is defined by fields or variants that name these types.
    Defines { name: String, of: Vec<Segments> },
    /// An `async` function or block, or an `.await`.
    Async,
    /// A `static mut`.
    StaticMut,
}

/// All that is known of one file.
#[derive(Default)]
pub(crate) struct Facts {
    pub(crate) facts: Vec<Fact>,
    /// The text of the `//!` comment.
    pub(crate) head: String,
    /// Where its tests begin and end.
    pub(crate) tests: Vec<(LineColumn, LineColumn)>,
}

impl Facts {
    /// Reads a file that is the module `module`, a path from `crate` on.
    pub(crate) fn of(file: &syn::File, module: Segments) -> Self {
        let mut reader = Reader { names: Names::default(), found: Self::default() };
        reader.found.head = file.attrs.iter().filter_map(doc_text).collect::<Vec<_>>().join("\n");
        reader.names.enter_module(module, &file.items);
        reader.visit_file(file);
        reader.found
    }
}

/// Whether an item with these attributes is compiled for tests only.
pub(crate) fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("test")
            || (attribute.path().is_ident("cfg")
                && attribute.parse_args::<syn::Meta>().is_ok_and(|meta| asks_for_test(&meta)))
    })
}

fn asks_for_test(condition: &syn::Meta) -> bool {
    match condition {
        syn::Meta::Path(path) => path.is_ident("test"),
        syn::Meta::List(list) if list.path.is_ident("all") => list
            .parse_args_with(Punctuated::<syn::Meta, Token![,]>::parse_terminated)
            .is_ok_and(|all| all.iter().any(asks_for_test)),
        _ => false,
    }
}

fn doc_text(attribute: &Attribute) -> Option<String> {
    let syn::Meta::NameValue(pair) = &attribute.meta else { return None };
    let Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) = &pair.value else { return None };
    pair.path.is_ident("doc").then(|| text.value())
}

struct Reader {
    names: Names,
    found: Facts,
}

impl Reader {
    fn say(&mut self, span: Span, what: What) {
        self.found.facts.push(Fact { line: span.start().line, what });
    }

    fn say_path(&mut self, span: Span, path: &[String], from_root: bool) -> Vec<Segments> {
        let meanings = self.names.resolve(path, from_root);
        for meaning in &meanings {
            self.say(span, What::Path(meaning.clone()));
        }
        meanings
    }

    fn say_macro(&mut self, span: Span, path: &[String], from_root: bool) {
        let mut meanings = self.say_path(span, path, from_root);
        if meanings.is_empty() {
            meanings.push(path.to_vec());
        }
        for meaning in meanings {
            self.say(span, What::Macro(meaning));
        }
    }

    /// The paths said by `visit`.
    fn said_by(&mut self, visit: impl FnOnce(&mut Self)) -> Vec<Segments> {
        let before = self.found.facts.len();
        visit(self);
        let said = self.found.facts.iter().skip(before);
        said.filter_map(|fact| match &fact.what {
            What::Path(path) => Some(path.clone()),
            _ => None,
        })
        .collect()
    }

    fn say_definition(&mut self, name: &syn::Ident, visit: impl FnOnce(&mut Self)) {
        let of = self.said_by(visit);
        self.say(name.span(), What::Defines { name: name.to_string(), of });
    }

    /// Notes tests instead of reading them.
    fn skips(&mut self, node: &impl Spanned, attributes: &[Attribute]) -> bool {
        let skip = is_for_tests(attributes);
        if skip {
            self.found.tests.push((node.span().start(), node.span().end()));
        }
        skip
    }

    /// The arguments of a macro are only tokens: they are read as what they look like.
    fn read_tokens(&mut self, tokens: &TokenStream) {
        let expressions = Punctuated::<Expr, Token![,]>::parse_terminated;
        if let Ok(expressions) = expressions.parse2(tokens.clone()) {
            expressions.iter().for_each(|expression| self.visit_expr(expression));
        } else if let Ok(statements) = Block::parse_within.parse2(tokens.clone()) {
            self.names.enter_block(&statements);
            statements.iter().for_each(|statement| self.visit_stmt(statement));
            self.names.leave();
        } else {
            self.scan(tokens.clone());
        }
    }

    /// Finds paths, macros and methods in tokens that are no Rust yet, such as `macro_rules!`.
    fn scan(&mut self, tokens: TokenStream) {
        let mut tokens = tokens.into_iter().peekable();
        let mut after_dot = false;
        while let Some(token) = tokens.next() {
            let dot = matches!(&token, TokenTree::Punct(mark) if mark.as_char() == '.');
            match token {
                TokenTree::Group(group) => self.scan(group.stream()),
                TokenTree::Ident(name) if name == "async" || name == "await" => {
                    self.say(name.span(), What::Async);
                }
                TokenTree::Ident(name) if after_dot => {
                    self.say(name.span(), What::Method(name.to_string()));
                }
                TokenTree::Ident(name) => {
                    let mut path = vec![name.to_string()];
                    let mut next = tokens.peek();
                    while matches!(next, Some(TokenTree::Punct(mark)) if mark.as_char() == ':') {
                        tokens.next();
                        next = tokens.peek();
                        if let Some(TokenTree::Ident(segment)) = next {
                            path.push(segment.to_string());
                            tokens.next();
                            next = tokens.peek();
                        }
                    }
                    if matches!(next, Some(TokenTree::Punct(mark)) if mark.as_char() == '!') {
                        self.say_macro(name.span(), &path, false);
                    } else {
                        self.say_path(name.span(), &path, false);
                    }
                }
                TokenTree::Literal(literal) => self.visit_lit(&syn::Lit::new(literal)),
                TokenTree::Punct(_) => {}
            }
            after_dot = dot;
        }
    }
}

/// Where a path begins. To ask the whole path for its span is far slower.
fn place(path: &syn::Path) -> Span {
    path.segments.first().map_or_else(Span::call_site, |segment| segment.ident.span())
}

fn segments(path: &syn::Path) -> Segments {
    path.segments.iter().map(|segment| segment.ident.to_string()).collect()
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_attribute(&mut self, _: &'ast Attribute) {}

    fn visit_item(&mut self, item: &'ast Item) {
        if self.skips(item, attributes(item)) {
            return;
        }
        match item {
            Item::Struct(item) => self.say_definition(&item.ident, |reader| {
                visit::visit_item_struct(reader, item);
            }),
            Item::Enum(item) => self.say_definition(&item.ident, |reader| {
                visit::visit_item_enum(reader, item);
            }),
            Item::Union(item) => self.say_definition(&item.ident, |reader| {
                visit::visit_item_union(reader, item);
            }),
            Item::Type(item) => self.say_definition(&item.ident, |reader| {
                visit::visit_item_type(reader, item);
            }),
            item => visit::visit_item(self, item),
        }
    }

    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        if let Some((_, items)) = &module.content {
            self.names.enter_inline_module(&module.ident.to_string(), items);
            visit::visit_item_mod(self, module);
            self.names.leave();
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        for import in imports(&item.tree) {
            for meaning in self.names.resolve_import(&import) {
                let line = import.line;
                self.found.facts.push(Fact { line, what: What::Path(meaning) });
            }
        }
    }

    fn visit_item_extern_crate(&mut self, item: &'ast syn::ItemExternCrate) {
        self.say_path(item.ident.span(), &[item.ident.to_string()], true);
    }

    fn visit_item_static(&mut self, item: &'ast syn::ItemStatic) {
        if matches!(item.mutability, syn::StaticMutability::Mut(_)) {
            self.say(item.ident.span(), What::StaticMut);
        }
        visit::visit_item_static(self, item);
    }

    fn visit_impl_item(&mut self, item: &'ast syn::ImplItem) {
        let attributes = match item {
            syn::ImplItem::Const(item) => &item.attrs,
            syn::ImplItem::Fn(item) => &item.attrs,
            syn::ImplItem::Type(item) => &item.attrs,
            syn::ImplItem::Macro(item) => &item.attrs,
            _ => return,
        };
        if !self.skips(item, attributes) {
            visit::visit_impl_item(self, item);
        }
    }

    fn visit_field(&mut self, field: &'ast syn::Field) {
        if !self.skips(field, &field.attrs) {
            visit::visit_field(self, field);
        }
    }

    fn visit_variant(&mut self, variant: &'ast syn::Variant) {
        if !self.skips(variant, &variant.attrs) {
            visit::visit_variant(self, variant);
        }
    }

    fn visit_arm(&mut self, arm: &'ast syn::Arm) {
        if !self.skips(arm, &arm.attrs) {
            visit::visit_arm(self, arm);
        }
    }

    fn visit_local(&mut self, local: &'ast syn::Local) {
        if !self.skips(local, &local.attrs) {
            visit::visit_local(self, local);
        }
    }

    fn visit_block(&mut self, block: &'ast Block) {
        self.names.enter_block(&block.stmts);
        visit::visit_block(self, block);
        self.names.leave();
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let from_root = path.leading_colon.is_some();
        let outer = self.say_path(place(path), &segments(path), from_root);
        let inside = self.said_by(|reader| visit::visit_path(reader, path));
        if !inside.is_empty() {
            for outer in outer {
                self.say(place(path), What::Holds { outer, inside: inside.clone() });
            }
        }
    }

    fn visit_expr_call(&mut self, call: &'ast syn::ExprCall) {
        self.visit_expr(&call.func);
        let inside = self.said_by(|reader| {
            call.args.iter().for_each(|argument| reader.visit_expr(argument));
        });
        if let Expr::Path(callee) = &*call.func
            && !inside.is_empty()
        {
            let path = &callee.path;
            for outer in self.names.resolve(&segments(path), path.leading_colon.is_some()) {
                self.say(place(path), What::Holds { outer, inside: inside.clone() });
            }
        }
    }

    fn visit_expr_method_call(&mut self, call: &'ast syn::ExprMethodCall) {
        self.say(call.method.span(), What::Method(call.method.to_string()));
        visit::visit_expr_method_call(self, call);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        let path = &call.path;
        self.say_macro(place(path), &segments(path), path.leading_colon.is_some());
        self.read_tokens(&call.tokens);
    }

    fn visit_lit(&mut self, literal: &'ast syn::Lit) {
        let text = match literal {
            syn::Lit::Str(text) => text.value(),
            syn::Lit::ByteStr(text) => String::from_utf8_lossy(&text.value()).into_owned(),
            _ => return,
        };
        self.say(literal.span(), What::Text(text));
    }

    fn visit_signature(&mut self, signature: &'ast syn::Signature) {
        if let Some(mark) = &signature.asyncness {
            self.say(mark.span(), What::Async);
        }
        visit::visit_signature(self, signature);
    }

    fn visit_expr_async(&mut self, expression: &'ast syn::ExprAsync) {
        self.say(expression.async_token.span(), What::Async);
        visit::visit_expr_async(self, expression);
    }

    fn visit_expr_closure(&mut self, closure: &'ast syn::ExprClosure) {
        if let Some(mark) = &closure.asyncness {
            self.say(mark.span(), What::Async);
        }
        visit::visit_expr_closure(self, closure);
    }

    fn visit_expr_await(&mut self, expression: &'ast syn::ExprAwait) {
        self.say(expression.await_token.span(), What::Async);
        visit::visit_expr_await(self, expression);
    }
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::ExternCrate(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::ForeignMod(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::TraitAlias(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}
