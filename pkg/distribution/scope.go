// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package distribution

import (
	"fmt"
	"slices"
	"strings"
)

const (
	// maxScopes bounds how many repositories a token may be asked for at once.
	// A mount needs two; clients that work at several images ask for each.
	maxScopes = 32
	// maxScopeBytes bounds what is looked at for that.
	maxScopeBytes = 16 << 10
	// scopeRepository is the one type of resource that there is.
	scopeRepository = "repository"
)

// allActions are the actions that "*" stands for, in the order in which scopes
// are written.
var allActions = []Action{ActionPull, ActionPush, ActionDelete}

// Scope is what may be done with a repository: what a token of the handshake
// is asked for, and what it is bound to.
type Scope struct {
	Repository Repository
	// Actions are in the order of pull, push, delete, each once.
	Actions []Action
}

// String writes the scope as "repository:NAMESPACE/NAME:pull,push".
func (s Scope) String() string {
	actions := make([]string, len(s.Actions))
	for i, action := range s.Actions {
		actions[i] = string(action)
	}
	return scopeRepository + ":" + s.Repository.String() + ":" + strings.Join(actions, ",")
}

// parseScopes reads the parameters "scope" of a request for a token, each of
// which may hold several. What names no repository that could be here, or no
// action that there is, is left out as what is not allowed is. An error is of
// too many.
func parseScopes(values []string) ([]Scope, error) {
	bytes := 0
	var scopes []Scope
	for _, value := range values {
		if bytes += len(value); bytes > maxScopeBytes {
			return nil, fmt.Errorf("scopes of more than %d bytes: %w", maxScopeBytes, ErrTokenRequestInvalid)
		}
		for text := range strings.FieldsSeq(value) {
			scope, ok := parseScope(text)
			if !ok {
				continue
			}
			at := slices.IndexFunc(scopes, func(s Scope) bool { return s.Repository == scope.Repository })
			if at < 0 {
				if len(scopes) == maxScopes {
					return nil, fmt.Errorf("scopes of more than %d repositories: %w", maxScopes, ErrTokenRequestInvalid)
				}
				scopes = append(scopes, scope)
				continue
			}
			scopes[at].Actions = inOrder(append(scopes[at].Actions, scope.Actions...))
		}
	}
	return scopes, nil
}

// parseScope reads one scope, TYPE:NAME:ACTION,ACTION. It takes the type up to
// the first and the actions from the last colon: names of other registries may
// have a port.
func parseScope(text string) (Scope, bool) {
	kind, rest, _ := strings.Cut(text, ":")
	colon := strings.LastIndexByte(rest, ':')
	if kind != scopeRepository || colon < 0 {
		return Scope{}, false
	}
	repo, err := ParseRepository(rest[:colon])
	if err != nil {
		return Scope{}, false
	}
	var actions []Action
	for action := range strings.SplitSeq(rest[colon+1:], ",") {
		if action == "*" {
			actions = append(actions, allActions...)
		}
		actions = append(actions, Action(action))
	}
	actions = inOrder(actions)
	return Scope{Repository: repo, Actions: actions}, len(actions) > 0
}

// inOrder returns those of the actions that there are, each once.
func inOrder(actions []Action) []Action {
	return slices.DeleteFunc(slices.Clone(allActions), func(action Action) bool { return !slices.Contains(actions, action) })
}
