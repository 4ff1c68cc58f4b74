// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package chart

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
)

// TestRightsAreDocumented compares the table of docs/security.md with the manifests: each right has a row that begins with it, and there
// are no others. TestRights has the chart grant the same.
func TestRightsAreDocumented(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile("../../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(content), "\n| where | right | what for |\n|---|---|---|\n")
	table, _, _ = strings.Cut(table, "\n\n")
	rows := strings.Split(table, "\n")
	all := read(t, manifests+"/rbac.yaml").rights()
	maps.Copy(all, read(t, manifests+"/other-namespaces.yaml").rights())
	for name, granted := range all {
		where := "cluster"
		if granted.Namespace != "" {
			where = "`" + granted.Namespace + "`"
		}
		var rights []string
		for _, rule := range granted.Rules {
			rights = append(rights, inWords(rule))
		}
		if role := granted.Role; !strings.HasPrefix(role.Name, "tagger-") && role.Name != "" { // it is Kubernetes' own
			rights = append(rights, "the "+role.Kind+" `"+role.Name+"`")
		}
		for _, right := range rights {
			begins := "| " + where + " | " + right
			at := slices.IndexFunc(rows, func(row string) bool { return strings.HasPrefix(row, begins) })
			if at < 0 {
				t.Errorf("no row begins with %q, which %s grants", begins, name)
				continue
			}
			rows = slices.Delete(rows, at, at+1)
		}
	}
	if len(rows) > 0 {
		t.Errorf("nothing grants:\n%s", strings.Join(rows, "\n"))
	}
}

// inWords says what a rule grants as docs/security.md does.
func inWords(rule rbacv1.PolicyRule) string {
	kind, names := "", rule.Resources
	if len(rule.ResourceNames) > 0 {
		kind = map[string]string{"apiservices": "the APIService ", "configmaps": "the ConfigMap ", "secrets": "the Secret "}[rule.Resources[0]]
		names = rule.ResourceNames
	}
	return strings.Join(rule.Verbs, ", ") + " " + kind + "`" + strings.Join(names, "`, `") + "`"
}

var upgrade = regexp.MustCompile(`(?m)^ *helm upgrade tagger .*`)

// TestUpgradesAreDocumented holds that who copies a command has a new version's new values, which --reuse-values leaves out.
func TestUpgradesAreDocumented(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	commands := 0
	for _, file := range append(files, chart+"/README.md") {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, command := range upgrade.FindAllString(string(content), -1) {
			commands++
			if !strings.Contains(command, " --reset-then-reuse-values ") {
				t.Errorf("%s: %s", file, command)
			}
		}
	}
	if commands == 0 {
		t.Error("no document upgrades anything")
	}
}
