"""The rules by which tools/mutate.py makes faults: from the syntax tree of a cell, not chosen by hand."""

import ast
import re

BINARY = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "//"),
    ast.Pow: ("**", "*"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
}
COMPARISON = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: (r"is\s+not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: (r"not\s+in", "in"),
}
EXACT = (ast.Eq, ast.NotEq, ast.Is, ast.IsNot, ast.In, ast.NotIn)  # flipping one of these is the negation
SWAPS = (
    "mean sum, min max, amin amax, minimum maximum, argmin argmax, floor ceil, sin cos, any all, "
    "zeros ones, zeros_like ones_like, new_zeros new_ones, zeros_ ones_"
)
SWAPPED = {a: b for pair in SWAPS.split(", ") for a, b in (pair.split(), reversed(pair.split()))}
# x.f() and torch.f(x), math.f(x), f(x) become x
DROPPED = set("detach abs square sqrt exp log log1p clamp relu round".split())
REDUCTIONS = set(
    "mean sum var std amin amax min max argmin argmax softmax logsumexp cat stack cumsum norm median "
    "quantile any all prod flip sort".split()
)
LOOKS = set(  # of a figure: nothing claims them
    "figsize fontsize lw linewidth ls linestyle alpha ms marker color c cmap interpolation dpi pad "
    "pad_inches bbox_inches height_ratios width_ratios hspace wspace rotation ha va size zorder frameon "
    "loc edgecolor facecolor quality".split()
)
MUTATIONS = {
    "operator": "+ and -, * and /, // to *, % to //, ** to *, & and |, also as +=",
    "term": "a summand or factor dropped",
    "sign": "a unary minus dropped",
    "constant": "n to n + 1 up to 16, else and with a decimal point to the double, 0. to 1., True and False",
    "comparison": "< and <=, > and >=, == and !=, is and is not, in and not in",
    "logic": "and and or, a `not` dropped, the condition of an if, an if-else or a comprehension negated",
    "call": "mean and sum, min and max, and such: " + SWAPS,
    "dropped call": "f(x) to x for f in " + ", ".join(sorted(DROPPED)),
    "variance": "an unbiased variance or standard deviation made biased",
    "dimension": "0 and 1, -1 to 0, as the dimension of a reduction",
}


class Mutants(ast.NodeVisitor):
    "Collects (rule, start, end, replacement) for one cell; positions are in bytes, as `ast` counts."

    def __init__(self, text):
        self.text, self.found = text.encode(), []
        self.starts = [0]
        for line in self.text.split(b"\n"):
            self.starts.append(self.starts[-1] + len(line) + 1)
        self.visit(ast.parse(text))

    def span(self, node):
        start = self.starts[node.lineno - 1] + node.col_offset
        return start, self.starts[node.end_lineno - 1] + node.end_col_offset

    def of(self, node):
        return self.text[slice(*self.span(node))].decode()

    def add(self, rule, span, replacement):
        self.found.append((rule, *span, replacement))

    def whole(self, node):
        "The text of `node`, in parentheses where precedence could matter."
        alone = isinstance(node, (ast.Name, ast.Constant, ast.Call, ast.Attribute, ast.Subscript))
        return self.of(node) if alone else f"({self.of(node)})"

    def token(self, rule, left, right, pattern, replacement):
        "Replace the operator between two nodes, beside which stand parentheses, spaces and comments only."
        start, end = self.span(left)[1], self.span(right)[0]
        between = re.sub(rb"#[^\n]*", lambda m: b" " * len(m[0]), self.text[start:end])
        if m := re.search(rb"(?<![\w*/])" + pattern.encode() + rb"(?![\w*/=])", between):
            self.add(rule, (start + m.start(), start + m.end()), replacement)

    # what is left alone
    def visit_Raise(self, node):
        pass

    def visit_JoinedStr(self, node):
        pass

    def visit_Import(self, node):
        pass

    def visit_ImportFrom(self, node):
        pass

    def visit_Assert(self, node):
        self.visit(node.test)

    def visit_FunctionDef(self, node):
        for default in node.args.defaults + [d for d in node.args.kw_defaults if d is not None]:
            self.visit(default)
        for child in node.body:
            self.visit(child)

    def visit_ClassDef(self, node):
        for child in node.body:
            self.visit(child)

    def visit_AnnAssign(self, node):
        if node.value is not None:
            self.visit(node.value)

    def visit_Assign(self, node):
        if getattr(node.targets[0], "id", "") != "__all__":
            self.generic_visit(node)

    def visit_keyword(self, node):
        if node.arg not in LOOKS:
            self.visit(node.value)

    def visit_Dict(self, node):
        for key, value in zip(node.keys, node.values):
            name = key.value if isinstance(key, ast.Constant) and isinstance(key.value, str) else ""
            if "." not in name or name.rpartition(".")[2] not in LOOKS:
                self.visit(value)  # as in matplotlib's settings: {"font.size": 10}
            if key is not None:
                self.visit(key)

    # what is changed
    def visit_BinOp(self, node):
        literal = (ast.JoinedStr, ast.List, ast.Tuple, ast.Dict, ast.ListComp)
        if not any(
            isinstance(side, literal)
            or (isinstance(side, ast.Constant) and not isinstance(side.value, (int, float)))
            for side in (node.left, node.right)
        ):
            if type(node.op) in BINARY:
                sign, other = BINARY[type(node.op)]
                self.token("operator", node.left, node.right, re.escape(sign), other)
            if isinstance(node.op, (ast.Add, ast.Sub, ast.Mult, ast.Div)):
                self.add("term", self.span(node), self.whole(node.left))
            if isinstance(node.op, (ast.Add, ast.Mult)):
                self.add("term", self.span(node), self.whole(node.right))
        self.generic_visit(node)

    def visit_AugAssign(self, node):
        if type(node.op) in BINARY:
            sign, other = BINARY[type(node.op)]
            start, end = self.span(node.target)[1], self.span(node.value)[0]
            at = self.text.index(sign.encode() + b"=", start, end)
            self.add("operator", (at, at + len(sign)), other)
        self.generic_visit(node)

    def visit_UnaryOp(self, node):
        if isinstance(node.op, ast.USub):
            self.add("sign", self.span(node), self.whole(node.operand))
            if not isinstance(node.operand, ast.Constant):
                self.visit(node.operand)
            return
        if isinstance(node.op, ast.Not):
            self.add("logic", self.span(node), self.whole(node.operand))
        self.generic_visit(node)

    def visit_Constant(self, node):
        value = node.value
        if isinstance(value, bool):
            self.add("constant", self.span(node), str(not value))
        elif isinstance(value, int):
            self.add("constant", self.span(node), str(value + 1 if value <= 16 else 2 * value))
        elif isinstance(value, float):
            self.add("constant", self.span(node), repr(2 * value if value else 1.0))

    def visit_Compare(self, node):
        for left, op, right in zip([node.left, *node.comparators], node.ops, node.comparators):
            self.token("comparison", left, right, *COMPARISON[type(op)])
        self.generic_visit(node)

    def visit_BoolOp(self, node):
        pair = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in zip(node.values, node.values[1:]):
            self.token("logic", left, right, *pair)
        self.generic_visit(node)

    def negate(self, test):
        exact = isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], EXACT)
        if not exact and not (isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)):
            self.add("logic", self.span(test), f"(not ({self.of(test)}))")

    def visit_If(self, node):
        self.negate(node.test)
        self.generic_visit(node)

    def visit_IfExp(self, node):
        self.negate(node.test)
        self.generic_visit(node)

    def visit_comprehension(self, node):
        for test in node.ifs:
            self.negate(test)
        self.generic_visit(node)

    def visit_Call(self, node):
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        if name in ("print", "warn"):
            return
        method = isinstance(node.func, ast.Attribute)
        end = self.span(node.func)[1]
        if name in SWAPPED and (method or name in ("min", "max", "any", "all")):
            self.add("call", (end - len(name.encode()), end), SWAPPED[name])
        if name in DROPPED:
            inner = (
                node.args[0]
                if node.args
                and not (method and isinstance(node.func.value, ast.Call))
                and (not method or getattr(node.func.value, "id", "") in ("torch", "math", "np", "F"))
                else node.func.value
                if method
                else None
            )
            if inner is not None and not (getattr(inner, "id", "") in ("torch", "math", "np", "F")):
                self.add("dropped call", self.span(node), self.whole(inner))
        if (
            name in ("var", "std")
            and method
            and not {"correction", "unbiased"} & {k.arg for k in node.keywords}
        ):
            last = self.span(node)[1] - 1
            self.add(
                "variance", (last, last), ", correction=0" if node.args or node.keywords else "correction=0"
            )
        skip = set()
        if name in REDUCTIONS and method:
            numbers = (
                [node.args[0]]
                if node.args and getattr(node.func.value, "id", "") not in ("torch", "F")
                else node.args[1:2]
            )
            for dim in numbers + [k.value for k in node.keywords if k.arg == "dim"]:
                try:
                    value = ast.literal_eval(dim)
                except ValueError:
                    continue
                if type(value) is int and value in (0, 1, -1):
                    self.add("dimension", self.span(dim), {0: "1", 1: "0", -1: "0"}[value])
                    skip.add(dim)
        for child in [node.func, *node.args, *node.keywords]:
            if child in skip or getattr(child, "value", None) in skip and isinstance(child, ast.keyword):
                continue
            self.visit(child)
