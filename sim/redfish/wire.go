// SPDX-License-Identifier: Apache-2.0

package redfish

import (
	"bytes"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// maxRequest bounds the bodies that are read.
const maxRequest = 64 << 10

// answer is what a request gets, before faults of the wire.
type answer struct {
	status int
	header map[string]string
	body   any // nil for none
}

// serve takes one request through faults of the wire, the service, and faults again.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	s.requests.Add(1)
	f := s.Faults()
	body, err := io.ReadAll(io.LimitReader(r.Body, maxRequest+1))
	if err != nil || s.chance(f.LoseRequests) {
		panic(http.ErrAbortHandler) // ends the connection without an answer
	}
	var a answer
	switch {
	case f.Redirect != "":
		a = answer{status: http.StatusTemporaryRedirect, header: map[string]string{"Location": f.Redirect + r.URL.Path}}
	case len(body) > maxRequest:
		a = failure(http.StatusRequestEntityTooLarge, "GeneralError", "The request is too large.")
	default:
		a = s.handle(r, body, f)
	}
	if s.chance(f.LoseAnswers) {
		panic(http.ErrAbortHandler)
	}
	if !wait(r, s.delay(f)) {
		panic(http.ErrAbortHandler)
	}
	s.write(w, r, a, f)
}

func (s *Server) write(w http.ResponseWriter, r *http.Request, a answer, f Faults) {
	h := w.Header()
	h.Set("OData-Version", "4.0")
	h.Set("Content-Type", "application/json")
	for k, v := range a.header {
		h.Set(k, v)
	}
	if a.body == nil {
		w.WriteHeader(a.status)
		return
	}
	text, err := json.Marshal(a.body)
	if err != nil { // the bodies are maps of plain values
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	if f.WrongJSON {
		text = text[:len(text)/2]
	}
	w.WriteHeader(a.status)
	if r.Method == http.MethodHead {
		return
	}
	switch {
	case f.HugeBody > 0:
		// The true members come first, so that a careless reader is content early.
		_, err = w.Write(append(text[:len(text)-1], `,"Padding":"`...))
		pad := bytes.Repeat([]byte("x"), 32<<10)
		for n := f.HugeBody; n > 0 && err == nil; n -= int64(len(pad)) {
			_, err = w.Write(pad[:min(n, int64(len(pad)))])
		}
		_, _ = w.Write([]byte(`"}`))
	case f.Trickle > 0:
		for i := range text {
			if _, err := w.Write(text[i : i+1]); err != nil || !wait(r, f.Trickle) {
				panic(http.ErrAbortHandler) // a return would end the body as if it were whole
			}
			_ = http.NewResponseController(w).Flush() // a client that is gone is found by the next write
		}
	default:
		_, _ = w.Write(text) // a client that is gone has hung up
	}
}

// wait holds an answer back; false when nobody waits for it any more.
func wait(r *http.Request, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-r.Context().Done():
		return false
	}
}

// listener gives each connection its wire.
type listener struct {
	net.Listener
	s *Server
}

func (l listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.s.connections.Add(1)
	w := &wire{Conn: c, s: l.s}
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	l.s.wires[w] = true
	return w, nil
}

// wire is a connection that swallows everything while the service is mute. What it
// swallowed is gone, so afterwards it can only be closed.
type wire struct {
	net.Conn
	s    *Server
	lost atomic.Bool
}

func (w *wire) Close() error {
	w.s.mu.Lock()
	delete(w.s.wires, w)
	w.s.mu.Unlock()
	return w.Conn.Close()
}

func (w *wire) Read(p []byte) (int, error) {
	for {
		n, err := w.Conn.Read(p)
		switch {
		case err != nil:
			return n, err
		case w.s.muted.Load():
			w.lost.Store(true)
		case w.lost.Load():
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}

func (w *wire) Write(p []byte) (int, error) {
	if w.s.muted.Load() {
		w.lost.Store(true)
		return len(p), nil
	}
	return w.Conn.Write(p)
}
