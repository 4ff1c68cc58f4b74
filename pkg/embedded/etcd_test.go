// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"k8s.io/apimachinery/pkg/util/wait"
)

// startEtcd starts an etcd that the test closes by itself or at its end.
func startEtcd(t *testing.T, config EtcdConfig) *Etcd {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	e, err := StartEtcd(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// withClient runs do with a client of e, which is closed before e is.
func withClient(t *testing.T, e *Etcd, do func(context.Context, *clientv3.Client)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{e.Endpoint()}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	do(ctx, client)
}

func TestEtcdKeepsData(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		// below is appended to the directory.
		below string
		// inside says whether the socket fits into the directory.
		inside bool
	}{
		{name: "socket in the directory", below: "etcd", inside: true},
		{name: "path too long for a socket", below: strings.Repeat("long-", 30)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			// The path of t.TempDir may be too long for a socket already.
			base, err := os.MkdirTemp("", "etcd-")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.RemoveAll(base) })
			dir := filepath.Join(base, tt.below)

			e := startEtcd(t, EtcdConfig{Dir: dir})
			socketDir := filepath.Dir(strings.TrimPrefix(e.Endpoint(), "unix://"))
			if got := socketDir == dir; got != tt.inside {
				t.Errorf("socket in the data directory: got %v, want %v (%s)", got, tt.inside, e.Endpoint())
			}
			info, err := os.Stat(socketDir)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(fs.FileMode(0o700), info.Mode().Perm()); diff != "" {
				t.Errorf("mode of the socket's directory (-want +got):\n%s", diff)
			}
			withClient(t, e, func(ctx context.Context, client *clientv3.Client) {
				if _, err := client.Put(ctx, "key", "value"); err != nil {
					t.Error(err)
				}
				if err := e.Check(ctx); err != nil {
					t.Errorf("Check of a running etcd: %v", err)
				}
			})
			e.Close()
			if err := e.Check(t.Context()); err == nil {
				t.Error("Check of a stopped etcd: got nil")
			}
			if _, err := os.Stat(socketDir); !tt.inside && !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("directory of the socket after Close: got %v, want it gone", err)
			}

			e = startEtcd(t, EtcdConfig{Dir: dir})
			defer e.Close()
			withClient(t, e, func(ctx context.Context, client *clientv3.Client) {
				response, err := client.Get(ctx, "key")
				if err != nil {
					t.Fatal(err)
				}
				var got []string
				for _, kv := range response.Kvs {
					got = append(got, string(kv.Value))
				}
				if diff := cmp.Diff([]string{"value"}, got); diff != "" {
					t.Errorf("after a restart (-want +got):\n%s", diff)
				}
			})
		})
	}
}

func TestEtcdRefusesSecondOpen(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	e := startEtcd(t, EtcdConfig{Dir: dir})
	defer e.Close()
	if _, err := StartEtcd(t.Context(), EtcdConfig{Dir: dir}); !errors.Is(err, fileutil.ErrLocked) {
		t.Errorf("got %v, want %v", err, fileutil.ErrLocked)
	}
}

func TestEtcdReportsDamage(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		damage func(t *testing.T, dir string)
	}{
		{
			name: "database is no database",
			damage: func(t *testing.T, dir string) {
				overwrite(t, filepath.Join(dir, "member", "snap", "db"), strings.Repeat("x", 64<<10))
			},
		},
		{
			name: "log is gone",
			damage: func(t *testing.T, dir string) {
				if err := os.RemoveAll(filepath.Join(dir, "member", "wal")); err != nil {
					t.Fatal(err)
				}
				overwrite(t, filepath.Join(dir, "member", "wal", "0000000000000000-0000000000000000.wal"), "no log")
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := tempDir(t)
			startEtcd(t, EtcdConfig{Dir: dir}).Close()
			tt.damage(t, dir)
			e, err := StartEtcd(t.Context(), EtcdConfig{Dir: dir})
			if err == nil {
				e.Close()
				t.Fatal("got nil, want an error")
			}
			if !strings.Contains(err.Error(), dir) {
				t.Errorf("error does not name the directory: %v", err)
			}
			// The lock must be free for whoever repairs it.
			lock, err := fileutil.TryLockFile(filepath.Join(dir, "lock"), os.O_RDWR, 0o600)
			if err != nil {
				t.Fatal(err)
			}
			_ = lock.Close()
		})
	}
}

// tempDir is t.TempDir for an etcd that fails to start: it leaves a goroutine behind that prepares a file of its log.
func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "etcd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := wait.PollUntilContextTimeout(context.Background(), 10*time.Millisecond, 10*time.Second, true, func(context.Context) (bool, error) {
			return os.RemoveAll(dir) == nil, nil
		})
		if err != nil {
			t.Errorf("%s cannot be removed", dir)
		}
	})
	return dir
}

func overwrite(t *testing.T, name, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestEtcdReportsFullQuota(t *testing.T) {
	t.Parallel()
	e := startEtcd(t, EtcdConfig{Dir: t.TempDir(), QuotaBytes: 1})
	defer e.Close()
	withClient(t, e, func(ctx context.Context, client *clientv3.Client) {
		if _, err := client.Put(ctx, "key", "value"); err == nil {
			t.Error("writing beyond the quota: got nil, want an error")
		}
		if err := e.Check(ctx); err == nil || !strings.Contains(err.Error(), "NOSPACE") {
			t.Errorf("Check: got %v, want one that names the alarm", err)
		}
	})
}

// TestEtcdDefragments fills a database, deletes all, and looks at how large it is.
func TestEtcdDefragments(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		reclaim int64
		want    bool
	}{
		{name: "enough", reclaim: 1 << 20, want: true},
		{name: "too little", reclaim: 1 << 30},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			e := startEtcd(t, EtcdConfig{Dir: tempDir(t), MinReclaimBytes: tt.reclaim})
			defer e.Close()
			withClient(t, e, func(ctx context.Context, client *clientv3.Client) {
				for i := range 64 {
					if _, err := client.Put(ctx, fmt.Sprint("key-", i), strings.Repeat("x", 64<<10)); err != nil {
						t.Fatal(err)
					}
				}
				deleted, err := client.Delete(ctx, "key-", clientv3.WithPrefix())
				if err != nil {
					t.Fatal(err)
				}
				if _, err := client.Compact(ctx, deleted.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
					t.Fatal(err)
				}
				// What is free is known some commits later.
				if err := wait.PollUntilContextTimeout(ctx, 100*time.Millisecond, 30*time.Second, true, func(ctx context.Context) (bool, error) {
					if _, err := client.Put(ctx, "kept", "value"); err != nil {
						return false, err
					}
					status, err := client.Status(ctx, e.Endpoint())
					return err == nil && status.DbSizeInUse < 1<<20, err
				}); err != nil {
					t.Fatal(err)
				}
				freed, err := e.Defragment()
				if err != nil || freed > 3<<20 != tt.want {
					t.Errorf("freed %d bytes: %v", freed, err)
				}
				if got, err := client.Get(ctx, "kept"); err != nil || len(got.Kvs) != 1 {
					t.Errorf("what was kept: %v, %v", got, err)
				}
				if again, err := e.Defragment(); err != nil || again != 0 {
					t.Errorf("freed %d bytes more: %v", again, err)
				}
			})
		})
	}
}

func TestEtcdStartObeysContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	dir := t.TempDir()
	// Ready may come first; either way the directory must be free afterwards.
	e, err := StartEtcd(ctx, EtcdConfig{Dir: dir})
	if err == nil {
		e.Close()
	} else if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	startEtcd(t, EtcdConfig{Dir: dir}).Close()
}
