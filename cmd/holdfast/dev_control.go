// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-ha/holdfast/sim/bmc"
	"github.com/holdfast-ha/holdfast/sim/world"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// devOrder is what the verbs of `holdfast dev` ask of the running fleet.
type devOrder struct {
	Verb    string        `json:"verb"` // see obey
	Name    string        `json:"name"` // of the host or worker
	How     world.How     `json:"how,omitempty"`
	Cluster bool          `json:"cluster,omitempty"`
	Parent  bool          `json:"parent,omitempty"`
	For     time.Duration `json:"for,omitempty"`
	Binary  string        `json:"binary,omitempty"` // another holdfast to start a worker from; empty: this one
}

// devStatus is the truth, to be compared with what Holdfast believes.
type devStatus struct {
	Hosts   []world.Status    `json:"hosts"`
	Workers []devWorkerStatus `json:"workers"`
	Dir     string            `json:"dir"`
	Etcd    string            `json:"etcd"` // URL
}

// obey carries out an order. Errors are Problems where the order is at fault.
func (f *devFleet) obey(o devOrder) error {
	var err error
	switch o.Verb {
	case "break":
		err = f.world.Break(o.Name, o.How, o.Cluster)
	case "repair":
		err = f.world.Repair(o.Name)
	case "kill-worker":
		return f.workers.kill(o.Name, o.Parent)
	case "stop-worker":
		return f.workers.stop(o.Name)
	case "restart-worker":
		return f.workers.restart(o.Name)
	case "pause-worker":
		return f.workers.pause(o.Name, o.For)
	case "start-worker":
		return f.workers.start(o.Name, o.Binary)
	default:
		return v1.BadField("verb", "%q, allowed are break, repair, kill-worker, stop-worker, restart-worker, pause-worker, start-worker", o.Verb)
	}
	switch {
	case errors.Is(err, world.ErrNotThere):
		return v1.Problemf(v1.CodeNotFound, "%v", err)
	case errors.Is(err, world.ErrNotNow):
		return v1.Problemf(v1.CodeConflict, "%v", err)
	case errors.Is(err, world.ErrBadOrder):
		return v1.Problemf(v1.CodeBadRequest, "%v", err)
	}
	return err
}

func (f *devFleet) status() devStatus {
	return devStatus{Hosts: f.world.Status(), Workers: f.workers.status(), Dir: f.dir.path, Etcd: f.etcdURL}
}

// controlSocket is where a dev fleet takes orders: an abstract socket, which leaves no
// file behind and whose name follows from the context's process id.
func controlSocket(pid int) string { return fmt.Sprintf("@holdfast-dev-%d", pid) }

// control serves orders until ctx ends.
func (f *devFleet) control(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /orders", func(w http.ResponseWriter, r *http.Request) {
		var o devOrder
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<16)).Decode(&o); err != nil {
			answer(w, nil, v1.Problemf(v1.CodeBadRequest, "order: %v", err))
			return
		}
		answer(w, struct{}{}, f.obey(o))
	})
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) { answer(w, f.status(), nil) })
	mux.HandleFunc("GET /truth", func(w http.ResponseWriter, _ *http.Request) { answer(w, f.world.Truth(), nil) })
	return serveOrders(ctx, controlSocket(os.Getpid()), mux)
}

// serveOrders serves processes of this user on an abstract socket until ctx ends.
func serveOrders(ctx context.Context, socket string, h http.Handler) error {
	ln, err := net.Listen("unix", socket)
	if err != nil {
		return fmt.Errorf("listen for orders: %w", err)
	}
	s := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second}
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() { defer close(done); _ = s.Close() })
	err = s.Serve(sameUser{ln})
	if !stop() {
		<-done
		return nil
	}
	return fmt.Errorf("serve orders: %w", err)
}

// answer writes a value or a Problem as JSON.
func answer(w http.ResponseWriter, v any, err error) {
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		p := v1.Problemf(v1.CodeInternal, "%v", err)
		_ = errors.As(err, &p)
		w.WriteHeader(p.Status)
		v = p
	}
	_ = json.NewEncoder(w).Encode(v) // a peer that is gone needs no answer
}

// sameUser accepts connections of this user's processes only: abstract sockets have no
// file whose mode could keep others out.
type sameUser struct{ net.Listener }

func (l sameUser) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if uid, err := peerUID(conn.(*net.UnixConn)); err == nil && uid == os.Getuid() {
			return conn, nil
		}
		_ = conn.Close()
	}
}

func peerUID(conn *net.UnixConn) (int, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) { cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err := errors.Join(err, credErr); err != nil {
		return 0, err
	}
	return int(cred.Uid), nil
}

// orderClient talks to what serves orders.
type orderClient struct {
	what string // in errors
	http http.Client
}

func newOrderClient(e *env, what, socket string) orderClient {
	var d net.Dialer
	return orderClient{what, http.Client{Timeout: e.timeout, Transport: &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return d.DialContext(ctx, "unix", socket) },
		DisableKeepAlives: true,
	}}}
}

// devClient talks to the running dev fleet.
type devClient struct{ orderClient }

// newDevClient finds the fleet by the context `dev`.
func newDevClient(e *env) (*devClient, error) {
	c, err := loadConfig(e)
	if err != nil {
		return nil, err
	}
	entry, ok := c.Contexts[devContext]
	if !ok || entry.PID == 0 || !entry.alive() {
		return nil, &hintError{&exitError{errors.New("no dev fleet runs"), exitNotFound}, "start one in another terminal: holdfast dev"}
	}
	return &devClient{newOrderClient(e, "dev fleet", controlSocket(entry.PID))}, nil
}

func (c *devClient) order(ctx context.Context, o devOrder) error {
	b, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("encode order: %w", err)
	}
	return c.do(ctx, http.MethodPost, "/orders", b, nil)
}

func (c *devClient) status(ctx context.Context) (s devStatus, err error) {
	return s, c.do(ctx, http.MethodGet, "/status", nil, &s)
}

func (c *devClient) truth(ctx context.Context) (t []bmc.Entry, err error) {
	return t, c.do(ctx, http.MethodGet, "/truth", nil, &t)
}

func (c *orderClient) do(ctx context.Context, method, path string, body []byte, out any) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://local"+path, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("ask %s: %w", c.what, err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("ask %s: %w", c.what, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("ask %s: %w", c.what, err)
	}
	if resp.StatusCode != http.StatusOK {
		p := &v1.Problem{}
		if err := json.Unmarshal(text, p); err != nil || p.Code == "" {
			return fmt.Errorf("ask %s: it answered %s", c.what, resp.Status)
		}
		return p
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(text, out); err != nil {
		return fmt.Errorf("ask %s: decode answer: %w", c.what, err)
	}
	return nil
}
