// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

// Package layering holds the arrows between the packages of this module: who may import whom, and why not. It owns the rules
// and how they are checked against what the go command reports; it looks at no source itself, and not at tests, which may
// reach across.
package layering

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
)

const module = "tagger.dev/tagger"

// A rule says what some packages must not import. Its patterns are those of the go command: an import path, or one that ends
// in /... and stands for what lies below it as well. Those that start with cmd, hack, pkg or test are of this module.
type rule struct {
	of     []string // the packages that the rule is for ...
	but    []string // ... save these
	never  []string // what they must not import ...
	except []string // ... save this
	direct bool     // whether only their own imports count, not those of what they import
	why    string
}

// A pkg is what the go command reports of a package.
type pkg struct {
	Path    string   `json:"ImportPath"`
	Imports []string `json:"Imports"` // what its own files import
	Deps    []string `json:"Deps"`    // the same, and what that imports in turn
}

// load reports all packages of the module whose root is dir.
func load(ctx context.Context, dir string) ([]pkg, error) {
	list := exec.CommandContext(ctx, "go", "list", "-json=ImportPath,Imports,Deps", "./...")
	list.Dir = dir
	out, err := list.Output()
	if err != nil {
		if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
			return nil, fmt.Errorf("go list: %w\n%s", err, exit.Stderr)
		}
		return nil, fmt.Errorf("go list: %w", err)
	}

	var packages []pkg
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		switch err := decoder.Decode(&p); {
		case errors.Is(err, io.EOF):
			return packages, nil
		case err != nil:
			return nil, fmt.Errorf("go list: %w", err)
		}
		packages = append(packages, p)
	}
}

// check reports each import that breaks the rule, and each pattern of packages that names none: a typing error there would
// otherwise switch the rule off.
func (r rule) check(packages []pkg) []string {
	var violations []string
	named := make(map[string]bool)
	for _, p := range packages {
		pattern, ok := match(r.of, p.Path)
		if !ok {
			continue
		}
		named[pattern] = true
		if _, ok := match(r.but, p.Path); ok {
			continue
		}
		imports := p.Deps
		if r.direct {
			imports = p.Imports
		}
		for _, path := range imports {
			_, forbidden := match(r.never, path)
			_, allowed := match(r.except, path)
			if forbidden && !allowed {
				violations = append(violations, fmt.Sprintf("%s imports %s: %s", short(p.Path), short(path), r.why))
			}
		}
	}
	for _, pattern := range r.of {
		if !named[pattern] {
			violations = append(violations, fmt.Sprintf("no package is named by %q: the rule guards nothing", pattern))
		}
	}
	return violations
}

// match reports the first of the patterns that names the import path.
func match(patterns []string, path string) (string, bool) {
	for _, pattern := range patterns {
		full := pattern
		switch first, _, _ := strings.Cut(pattern, "/"); first {
		case "cmd", "hack", "pkg", "test":
			full = module + "/" + pattern
		}
		below, open := strings.CutSuffix(full, "/...")
		if path == below || open && strings.HasPrefix(path, below+"/") {
			return pattern, true
		}
	}
	return "", false
}

func short(path string) string {
	return strings.TrimPrefix(path, module+"/")
}
