// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package standalone

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/google/renameio/v2"
	"go.etcd.io/etcd/client/pkg/v3/fileutil"
)

// formatVersion is the number in the file "version". It is raised when an older
// program could not use the directory any more.
const formatVersion = 1

// Names in the directory. They are part of its format, except kubeconfig and
// ca.crt, which are part of the contract with users.
const (
	lockFile       = "lock"
	versionFile    = "version"
	caCertFile     = "ca.crt"
	caKeyFile      = "ca-key.pem" // not *.key: clients that are given the directory would take it for their own
	tokenFile      = "token"
	kubeconfigFile = "kubeconfig"
	etcdDir        = "etcd"
	storeDir       = "store"
)

// DataDir is an open data directory.
type DataDir struct {
	path string
	lock *fileutil.LockedFile
}

// OpenDataDir opens the data directory at path for this process alone. A
// directory that is absent is created; one that is empty and ours is made
// private; one that holds something else, can be entered by others, is in use,
// or was written by a newer version, is refused. The caller closes it.
func OpenDataDir(path string) (*DataDir, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("opening the data directory: %w", err)
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("opening the data directory: %w", err)
	}
	if err := takePossession(path); err != nil {
		return nil, fmt.Errorf("data directory %s: %w", path, err)
	}
	lock, err := lockDir(path)
	if err != nil {
		return nil, fmt.Errorf("data directory %s: %w", path, err)
	}
	d := &DataDir{path: path, lock: lock}
	if err := d.checkVersion(); err != nil {
		return nil, errors.Join(fmt.Errorf("data directory %s: %w", path, err), d.Close())
	}
	return d, nil
}

// takePossession makes sure that nobody else can enter the directory, and that
// it is not one that holds other things. Only an empty directory is changed.
func takePossession(path string) error {
	entries, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	if len(entries) == 0 {
		return os.Chmod(path, 0o700)
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fmt.Errorf("it holds keys and can be entered by other users (mode %04o): run chmod 700 %s", mode, path)
	}
	for _, entry := range entries {
		if name := entry.Name(); name == versionFile || name == lockFile {
			return nil
		}
	}
	return errors.New("it is neither empty nor a data directory of tagger-apiserver: choose another one")
}

// lockDir takes the lock, and leaves the process id in it for whoever comes
// second.
func lockDir(path string) (*fileutil.LockedFile, error) {
	name := filepath.Join(path, lockFile)
	lock, err := fileutil.TryLockFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if errors.Is(err, fileutil.ErrLocked) {
		holder := "another tagger-apiserver"
		if pid, err := readNumber(name); err == nil {
			holder += fmt.Sprintf(" (pid %d)", pid)
		}
		return nil, fmt.Errorf("it is in use by %s", holder)
	}
	if err != nil {
		return nil, fmt.Errorf("locking it: %w", err)
	}
	err = lock.Truncate(0)
	if err == nil {
		_, err = lock.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("locking it: %w", err), lock.Close())
	}
	return lock, nil
}

// checkVersion writes the version of a new directory, and refuses one that this
// program does not know.
func (d *DataDir) checkVersion() error {
	version, err := readNumber(d.file(versionFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return d.write(versionFile, []byte(strconv.Itoa(formatVersion)+"\n"), 0o600)
	case err != nil:
		return fmt.Errorf("reading its version: %w", err)
	case version > formatVersion:
		return fmt.Errorf("it was written by a newer version of tagger-apiserver (format %d, this one knows %d): upgrade tagger-apiserver", version, formatVersion)
	case version < formatVersion:
		return fmt.Errorf("its format %d is unknown", version)
	}
	return nil
}

// Close gives the directory free. Nothing in it may be used afterwards.
func (d *DataDir) Close() error { return d.lock.Close() }

// Path returns the absolute path of the directory.
func (d *DataDir) Path() string { return d.path }

// EtcdPath returns the directory for the embedded etcd.
func (d *DataDir) EtcdPath() string { return d.file(etcdDir) }

// StorePath returns the directory for the embedded image store.
func (d *DataDir) StorePath() string { return d.file(storeDir) }

// CACertPath returns the file with the certificate of the authority, in PEM.
func (d *DataDir) CACertPath() string { return d.file(caCertFile) }

// KubeconfigPath returns the file that WriteKubeconfig writes.
func (d *DataDir) KubeconfigPath() string { return d.file(kubeconfigFile) }

func (d *DataDir) file(name string) string { return filepath.Join(d.path, name) }

// write replaces a file atomically and durably: the file is flushed before it
// gets its name, the directory after.
func (d *DataDir) write(name string, data []byte, perm fs.FileMode) error {
	// Not renameio.WriteFile, which keeps the mode of a file that is there.
	f, err := renameio.NewPendingFile(d.file(name), renameio.WithTempDir(d.path), renameio.WithStaticPermissions(perm))
	if err != nil {
		return fmt.Errorf("writing %s: %w", d.file(name), err)
	}
	defer f.Cleanup() //nolint:errcheck // does nothing once the file has its name
	if _, err := f.Write(data); err != nil {
		return fmt.Errorf("writing %s: %w", d.file(name), err)
	}
	if err := f.CloseAtomicallyReplace(); err != nil {
		return fmt.Errorf("writing %s: %w", d.file(name), err)
	}
	dir, err := os.Open(d.path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// maxNumberBytes bounds what readNumber reads.
const maxNumberBytes = 32

// readNumber reads a file that holds one decimal number.
func readNumber(name string) (int, error) {
	data, err := readFile(name, maxNumberBytes)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(data)))
}

// readFile reads a file of at most limit bytes.
func readFile(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // opened for reading only
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s has more than %d bytes", name, limit)
	}
	return data, nil
}
