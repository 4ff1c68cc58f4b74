// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// authFile is docker's or podman's file of credentials. All that is not changed in it stays as it is.
type authFile struct {
	name    string
	content map[string]json.RawMessage
	helpers map[string]string // by host
}

// readAuthFile reads such a file; one that is absent or empty has no content.
func readAuthFile(name string) (*authFile, error) {
	f := &authFile{name: name}
	body, err := os.ReadFile(filepath.Clean(name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if len(bytes.TrimSpace(body)) > 0 && json.Unmarshal(body, &f.content) != nil {
		return nil, errors.New("this is no JSON; nothing was changed")
	}
	if helpers := f.content["credHelpers"]; helpers != nil && json.Unmarshal(helpers, &f.helpers) != nil {
		return nil, errors.New("its credHelpers are not as docker writes them; nothing was changed")
	}
	if f.content == nil {
		f.content = map[string]json.RawMessage{}
	}
	if f.helpers == nil {
		f.helpers = map[string]string{}
	}
	return f, nil
}

// write writes the file, and makes its folder.
func (f *authFile) write() (err error) {
	if f.content["credHelpers"], err = json.Marshal(f.helpers); err != nil {
		return err
	}
	body, err := json.MarshalIndent(f.content, "", "\t")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(followed(f.name)), 0o700); err != nil {
		return err
	}
	return replaceFile(f.name, body, 0o600)
}

// setHelper has whoever reads a file ask the plugin about a host.
func setHelper(name, host string) error {
	file, err := readAuthFile(name)
	if err != nil {
		return err
	}
	file.helpers[host] = helperName
	// What an earlier login left there would be stale soon.
	auths := map[string]json.RawMessage{}
	if json.Unmarshal(file.content["auths"], &auths) == nil && auths[host] != nil {
		delete(auths, host)
		if file.content["auths"], err = json.Marshal(auths); err != nil {
			return err
		}
	}
	return file.write()
}

// unsetHelper takes back what setHelper has done, if it has.
func unsetHelper(name, host string) error {
	file, err := readAuthFile(name)
	if err != nil || file.helpers[host] != helperName {
		return err
	}
	delete(file.helpers, host)
	return file.write()
}

// followed returns the file that a name means, which is another one where it is a link, maybe to what is not there yet.
func followed(name string) string {
	if target, err := filepath.EvalSymlinks(name); err == nil {
		return target
	}
	target, err := os.Readlink(name)
	switch {
	case err != nil:
		return name
	case filepath.IsAbs(target):
		return target
	default:
		return filepath.Join(filepath.Dir(name), target)
	}
}

// replaceFile writes a file under another name first. A link stays one.
func replaceFile(name string, content []byte, mode fs.FileMode) (err error) {
	name = followed(name)
	file, err := os.CreateTemp(filepath.Dir(name), "."+strings.TrimPrefix(filepath.Base(name), ".")+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(file.Name())
		}
	}()
	_, err = file.Write(content)
	if err := errors.Join(err, file.Chmod(mode), file.Close()); err != nil {
		return err
	}
	return os.Rename(file.Name(), name)
}
