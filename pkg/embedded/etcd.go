// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"

	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/sys/unix"
	"gopkg.in/natefinch/lumberjack.v2"
	"strings"
)

const (
	// DefaultEtcdQuotaBytes is the size at which the database refuses writes
	// unless EtcdConfig says otherwise: the largest that etcd recommends. It
	// reserves nothing.
	DefaultEtcdQuotaBytes = 8 << 30

	// memberName is part of the data on disk.
	memberName = "tagger"

	// minReclaimBytes is how much a defragmentation has to give back at least, unless
	// EtcdConfig says otherwise, and maxDefragmentBytes how much may be in use, since
	// all requests wait until that is copied: a second for each 100 MB or so, where a
	// write has five.
	minReclaimBytes    = 128 << 20
	maxDefragmentBytes = 256 << 20

	// A single member waits for one election timeout before it leads, which is
	// most of a start with etcd's defaults. It is elected by its own vote and
	// nobody can depose it, so that a loaded machine does no harm here.
	heartbeatMilliseconds = 10
	electionMilliseconds  = 100

	// maxSocketPath is what socket addresses have room for without the final
	// zero, in bytes: 104 with it where it is least.
	maxSocketPath = 103

	// maxLogMegabytes bounds each of the two files of etcd's log.
	maxLogMegabytes = 10
)

// EtcdConfig says where an embedded etcd lives.
type EtcdConfig struct {
	// Dir holds the data, the log and, where its path is short enough, the
	// socket. It is created when absent, and made private (0700).
	Dir string
	// QuotaBytes bounds the database; DefaultEtcdQuotaBytes when zero. A
	// database that has reached it only answers reads and deletes.
	QuotaBytes int64
	// MinReclaimBytes is how much Defragment has to give back to the disk at least
	// to do anything; 128 MiB when zero.
	MinReclaimBytes int64
}

// Etcd is a running etcd of one member, reachable through a socket that only
// this user can open. Its methods may be called concurrently.
//
// It never compacts by itself: the storage of k8s.io/apiserver does that every
// five minutes. Its warnings and errors go to the file etcd.log in its
// directory, since it reports ordinary things, such as a stop, as errors.
type Etcd struct {
	server    *embed.Etcd
	dir       string
	reclaim   int64 // see EtcdConfig.MinReclaimBytes
	lock      *fileutil.LockedFile
	log       *lumberjack.Logger
	socket    string
	socketDir string // removed by Close; empty when the socket is in the data directory
}

// StartEtcd starts an etcd and waits until it serves, or until ctx is done. The
// caller closes it.
func StartEtcd(ctx context.Context, config EtcdConfig) (*Etcd, error) {
	dir, err := filepath.Abs(config.Dir)
	if err != nil {
		return nil, fmt.Errorf("starting etcd: %w", err)
	}
	if err := privateDir(dir); err != nil {
		return nil, fmt.Errorf("starting etcd: %w", err)
	}
	// etcd itself would wait without end for a database that is open elsewhere.
	lock, err := fileutil.TryLockFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	switch {
	case errors.Is(err, fileutil.ErrLocked):
		return nil, fmt.Errorf("starting etcd in %s: another process has it open: %w", dir, err)
	case err != nil:
		return nil, fmt.Errorf("starting etcd in %s: %w", dir, err)
	}
	e := &Etcd{
		dir:     dir,
		reclaim: cmp.Or(config.MinReclaimBytes, minReclaimBytes),
		lock:    lock,
		log:     &lumberjack.Logger{Filename: filepath.Join(dir, "etcd.log"), MaxSize: maxLogMegabytes, MaxBackups: 1},
	}
	if err := e.start(ctx, config.QuotaBytes); err != nil {
		e.Close()
		return nil, fmt.Errorf("starting etcd in %s: %w", dir, err)
	}
	return e, nil
}

func (e *Etcd) start(ctx context.Context, quotaBytes int64) (err error) {
	if err := checkDatabase(filepath.Join(e.dir, "member", "snap", "db")); err != nil {
		return err
	}
	if e.socket = filepath.Join(e.dir, "client.sock"); len(e.socket) > maxSocketPath {
		if e.socketDir, err = os.MkdirTemp("", "tagger-etcd-"); err != nil {
			return err
		}
		e.socket = filepath.Join(e.socketDir, "client.sock")
	}
	if e.server, err = serve(e.serverConfig(quotaBytes)); err != nil {
		return err
	}
	select {
	case <-e.server.Server.ReadyNotify():
		return nil
	case <-e.server.Server.StopNotify():
		return errors.New("it stopped before it was ready")
	case err := <-e.server.Err():
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// checkDatabase returns an error when there is a database that cannot be opened.
// etcd opens it in a goroutine of its own, where a failure ends the process.
func checkDatabase(name string) error {
	if _, err := os.Stat(name); errors.Is(err, fs.ErrNotExist) {
		return nil // a new member
	}
	db, err := bolt.Open(name, 0o600, &bolt.Options{ReadOnly: true, Timeout: lockTimeout})
	if err != nil {
		return fmt.Errorf("opening its database: %w", err)
	}
	return db.Close()
}

func (e *Etcd) serverConfig(quotaBytes int64) *embed.Config {
	cfg := embed.NewConfig()
	cfg.Name = memberName
	cfg.Dir = e.dir
	cfg.TickMs = heartbeatMilliseconds
	cfg.ElectionMs = electionMilliseconds
	cfg.QuotaBackendBytes = DefaultEtcdQuotaBytes
	if quotaBytes != 0 {
		cfg.QuotaBackendBytes = quotaBytes
	}

	client := url.URL{Scheme: "unix", Path: e.socket}
	cfg.ListenClientUrls = []url.URL{client}
	cfg.AdvertiseClientUrls = []url.URL{client}
	// A member has a peer address for its identity. Nothing listens there.
	peer := url.URL{Scheme: "http", Host: "localhost:2380"}
	cfg.ListenPeerUrls = nil
	cfg.AdvertisePeerUrls = []url.URL{peer}
	cfg.InitialCluster = memberName + "=" + peer.String()

	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.New(
		zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.AddSync(e.log), zapcore.WarnLevel),
		// What etcd finds fatal must not end this process without a word:
		// during a start it becomes an error, later a crash with a stack.
		zap.WithFatalHook(zapcore.WriteThenPanic),
	))
	return cfg
}

// serve starts the server. etcd panics when it finds its files damaged, or no room for more.
func serve(cfg *embed.Config) (server *embed.Etcd, err error) {
	defer func() {
		if v := recover(); v != nil {
			what := "its data is damaged, restore a backup"
			if strings.Contains(fmt.Sprint(v), unix.ENOSPC.Error()) {
				what = "the disk is full, make room and start it again"
			}
			server, err = nil, fmt.Errorf("%s (etcd.log there has the details): %v", what, v)
		}
	}()
	return embed.StartEtcd(cfg)
}

// Endpoint returns the address for clients, which need neither TLS nor
// credentials.
func (e *Etcd) Endpoint() string { return "unix://" + e.socket }

// Check returns an error that says what is wrong unless etcd answers reads and
// accepts writes. It serves readiness probes.
func (e *Etcd) Check(ctx context.Context) error {
	for _, alarm := range e.server.Server.Alarms() {
		switch alarm.GetAlarm() {
		case etcdserverpb.AlarmType_NOSPACE:
			return errors.New("etcd refuses writes, its database has reached its quota (alarm NOSPACE)")
		case etcdserverpb.AlarmType_CORRUPT:
			return errors.New("etcd refuses requests, its data is damaged (alarm CORRUPT): restore a backup")
		}
	}
	if err := e.server.Server.LinearizableReadNotify(ctx); err != nil {
		return fmt.Errorf("etcd does not answer: %w", err)
	}
	return nil
}

// Defragment gives back to the disk what the database does not use any more, and
// returns how many bytes those were: where that is half of it at least, what is in
// use is small enough to be copied while all requests wait, and the disk has room
// for the copy.
func (e *Etcd) Defragment() (freed int64, err error) {
	backend := e.server.Server.Backend()
	before, used := backend.Size(), backend.SizeInUse()
	if before-used < max(e.reclaim, before/2) || used > maxDefragmentBytes {
		return 0, nil
	}
	free, err := freeBytes(e.dir)
	if err != nil || free < 2*used {
		return 0, err
	}
	if err := backend.Defrag(); err != nil {
		return 0, fmt.Errorf("defragmenting etcd: %w", err)
	}
	return before - backend.Size(), nil
}

// Close stops etcd, once. Requests under way, watches included, get about five
// seconds to end, so clients should be closed first.
func (e *Etcd) Close() {
	if e.server != nil {
		e.server.Close()
	}
	// Nothing of what is left can be lost by an error.
	if e.socketDir != "" {
		_ = os.RemoveAll(e.socketDir)
	}
	_ = e.log.Close()
	_ = e.lock.Close()
}
