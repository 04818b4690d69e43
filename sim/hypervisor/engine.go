// SPDX-License-Identifier: Apache-2.0

package hypervisor

import (
	"cmp"
	"context"
	"encoding/gob"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-ha/holdfast/agent/hypervisor"
	"github.com/holdfast-ha/holdfast/agent/hypervisor/dirs"
	"github.com/holdfast-ha/holdfast/sim/sequence"
)

// EngineConfig is what an engine is made of.
type EngineConfig struct {
	Socket     string // unix socket; abstract with @
	Dir        string // keeps the definitions; outlives the boot
	Dirs       []dirs.Dir
	Gate       func(ctx context.Context, op string, d hypervisor.Disk) error // see dirs.Config
	Refused    Refused
	Boot       []hypervisor.Instance // defined and started, with new disks where they have none
	WriteEvery time.Duration         // of every guest; default 20ms
	JobRate    int64                 // bytes per second of any job; default 1 GiB
}

// Engine is the hypervisor of one boot of a host. Make it with NewEngine, then call Run
// once.
type Engine struct {
	cfg   EngineConfig
	pools *dirs.Store

	mu  sync.Mutex
	vms map[string]*vm
}

// NewEngine reads the definitions. It starts nothing.
func NewEngine(cfg EngineConfig) (*Engine, error) {
	cfg.WriteEvery = cmp.Or(cfg.WriteEvery, 20*time.Millisecond)
	cfg.JobRate = cmp.Or(cfg.JobRate, 1<<30)
	pools, err := dirs.New(dirs.Config{Dirs: cfg.Dirs, Gate: cfg.Gate})
	if err != nil {
		return nil, err
	}
	e := &Engine{cfg: cfg, pools: pools, vms: map[string]*vm{}}
	names, err := filepath.Glob(filepath.Join(cfg.Dir, "*.json"))
	if err != nil {
		return nil, fmt.Errorf("read definitions: %w", err)
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		var d hypervisor.Definition
		if err == nil {
			err = json.Unmarshal(text, &d)
		}
		if err != nil {
			return nil, fmt.Errorf("read definition %s: %w", name, err)
		}
		e.vms[d.ID] = &vm{def: d, persistent: true, state: hypervisor.Stopped}
	}
	return e, nil
}

// bootLimit bounds the start of one instance of the boot: one whose pool hangs does not
// start, the others do.
const bootLimit = time.Second

// boot starts the instances of the boot. One that cannot start stays stopped.
func (e *Engine) boot(ctx context.Context) error {
	for _, in := range e.cfg.Boot {
		def := hypervisor.Definition{ID: in.ID, MemoryMiB: bootMemory, CPUs: 1}
		for _, d := range in.Disks {
			def.Disks = append(def.Disks, hypervisor.DiskSpec{Disk: d, Format: hypervisor.Raw})
		}
		if err := e.define(def); err != nil {
			return err
		}
		limited, cancel := context.WithTimeout(ctx, bootLimit)
		err := e.newDisks(limited, in.Disks)
		cancel()
		if err == nil {
			_ = e.start(ctx, in.ID) // whoever looks sees it stopped
		}
	}
	return nil
}

const bootMemory = 64 // MiB

func (e *Engine) newDisks(ctx context.Context, all []hypervisor.Disk) error {
	for _, d := range all {
		path, err := e.pools.Reserve(ctx, d)
		if err == nil {
			err = os.Truncate(path, sequence.Size)
		}
		if err != nil && !errors.Is(err, hypervisor.ErrExists) {
			return err
		}
	}
	return nil
}

// Run answers on the socket until ctx ends; then nothing runs any more.
func (e *Engine) Run(ctx context.Context) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", e.cfg.Socket)
	if err != nil {
		return fmt.Errorf("listen as hypervisor: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	defer func() {
		cancel()
		all.Wait()
		e.mu.Lock()
		vms := slices.Collect(maps.Values(e.vms))
		e.mu.Unlock()
		for _, v := range vms {
			v.tasks.Wait()
		}
	}()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	if err := e.boot(ctx); err != nil {
		return fmt.Errorf("boot hypervisor: %w", errors.Join(err, l.Close()))
	}
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			if conn != nil {
				conn.Close()
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("listen as hypervisor: %w", errors.Join(err, l.Close()))
		}
		all.Go(func() { e.serve(ctx, conn) })
	}
}

// serve answers the calls of one connection. An instance that was coming in over it and
// did not arrive is forgotten with it.
func (e *Engine) serve(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	enc, dec := gob.NewEncoder(conn), gob.NewDecoder(conn)
	var coming string
	defer func() { e.forget(coming) }()
	for {
		var q request
		if dec.Decode(&q) != nil {
			return
		}
		a := &answer{}
		a.fail(e.handle(ctx, q, a, &coming))
		if ctx.Err() != nil || enc.Encode(a) != nil {
			return
		}
	}
}

func (e *Engine) handle(ctx context.Context, q request, a *answer, coming *string) error {
	switch q.Op {
	case "ping":
		return nil
	case "list":
		a.List = e.list()
		return nil
	case "users":
		a.Users = e.users()
		return nil
	case "look":
		a.Instance = e.look(q.ID)
		return nil
	case "define":
		return e.define(q.Def)
	case "start":
		return e.start(ctx, q.ID)
	case "stop":
		return e.stop(q.ID)
	case "undefine":
		return e.undefine(q.ID)
	case "migrate":
		return e.migrate(ctx, q.Migration)
	case "migration-job":
		a.Job = e.migrationJob(q.ID)
		return nil
	case "abort-migration":
		return e.abortMigration(q.ID)
	case "block-copy":
		return e.blockCopy(ctx, q.Copy)
	case "block-job":
		a.Job = e.blockJob(q.ID, q.Disk)
		return nil
	case "pivot":
		return e.pivot(ctx, q.ID, q.Disk)
	case "abort-block-copy":
		return e.abortBlockCopy(q.ID, q.Disk)
	case "incoming":
		if err := e.incoming(q.Def); err != nil {
			return err
		}
		*coming = q.Def.ID
		return nil
	case "chunk":
		return e.write(ctx, q.Chunk.Disk, q.Chunk.Data, q.Chunk.Offset)
	case "arrived":
		err := e.arrived(ctx, q.ID, q.Record)
		if err == nil {
			*coming = ""
		}
		return err
	}
	return fmt.Errorf("operation %q is unknown", q.Op)
}

// list is what runs here.
func (e *Engine) list() []hypervisor.Instance {
	e.mu.Lock()
	defer e.mu.Unlock()
	var all []hypervisor.Instance
	for _, id := range slices.Sorted(maps.Keys(e.vms)) {
		if v := e.vms[id]; v.state != hypervisor.Stopped && !v.coming {
			all = append(all, hypervisor.Instance{ID: id, Disks: v.disks()})
		}
	}
	return all
}

// users is who uses which volume, by path.
func (e *Engine) users() map[string][]hypervisor.User {
	e.mu.Lock()
	defer e.mu.Unlock()
	all := map[string][]hypervisor.User{}
	add := func(d hypervisor.Disk, u hypervisor.User) {
		if path, err := e.pools.Path(d); err == nil {
			all[path] = append(all[path], u)
		}
	}
	for id, v := range e.vms {
		if v.state == hypervisor.Stopped {
			continue
		}
		for _, d := range v.disks() {
			add(d, hypervisor.User{Kind: hypervisor.ByInstance, ID: id})
		}
		for _, j := range v.jobs {
			if !j.begun {
				continue
			}
			add(j.copy.To, hypervisor.User{Kind: hypervisor.ByBlockJob, ID: id})
		}
	}
	return all
}

func (e *Engine) look(id string) hypervisor.InstanceSight {
	e.mu.Lock()
	defer e.mu.Unlock()
	v := e.vms[id]
	if v == nil {
		return hypervisor.InstanceSight{Answer: hypervisor.Absent}
	}
	return hypervisor.InstanceSight{
		Answer: hypervisor.Present, State: v.state, Detail: v.detail, Persistent: v.persistent, Disks: v.disks(),
	}
}

func (e *Engine) define(d hypervisor.Definition) error {
	if d.ID == "" || filepath.Base(d.ID) != d.ID || len(d.Disks) == 0 {
		return fmt.Errorf("define instance %q with %d disks: want a name and at least one disk", d.ID, len(d.Disks))
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	v := e.vms[d.ID]
	switch {
	case v == nil:
		v = &vm{state: hypervisor.Stopped}
	case v.state != hypervisor.Stopped:
		return fmt.Errorf("define instance %s: %w: it runs", d.ID, hypervisor.ErrBusy)
	}
	if err := e.save(d); err != nil {
		return err
	}
	v.def, v.persistent = d, true
	e.vms[d.ID] = v
	return nil
}

// save keeps a definition beyond this boot.
func (e *Engine) save(d hypervisor.Definition) error {
	text, err := json.Marshal(d)
	if err == nil {
		err = replace(e.definition(d.ID), text)
	}
	if err != nil {
		return fmt.Errorf("save definition of %s: %w", d.ID, err)
	}
	return nil
}

func (e *Engine) definition(id string) string { return filepath.Join(e.cfg.Dir, id+".json") }

func (e *Engine) undefine(id string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	v := e.vms[id]
	if v == nil {
		return nil
	}
	if v.state != hypervisor.Stopped {
		return fmt.Errorf("undefine instance %s: %w: it runs", id, hypervisor.ErrBusy)
	}
	return e.drop(id)
}

// drop forgets an instance here. Callers hold mu.
func (e *Engine) drop(id string) error {
	delete(e.vms, id)
	if err := os.Remove(e.definition(id)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("undefine instance %s: %w", id, err)
	}
	return nil
}

// write writes in place, as QEMU does, and keeps nothing open.
func (e *Engine) write(ctx context.Context, d hypervisor.Disk, data []byte, at int64) error {
	f, err := e.openDisk(ctx, "write", d, os.O_WRONLY)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(data, at)
	return errors.Join(err, f.Close())
}

func (e *Engine) openDisk(ctx context.Context, op string, d hypervisor.Disk, flag int) (*os.File, error) {
	path, err := e.pools.Path(d)
	if err != nil {
		return nil, err
	}
	if e.cfg.Gate != nil {
		if err := e.cfg.Gate(ctx, op, d); err != nil {
			return nil, fmt.Errorf("pool %s: %w", d.Pool, err)
		}
	}
	return os.OpenFile(path, flag, 0)
}
