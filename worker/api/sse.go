// SPDX-License-Identifier: Apache-2.0

package api

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

const (
	heartbeat    = 15 * time.Second // of a silent stream; clients give up after three
	writeTimeout = 10 * time.Second // of one event: a client that reads no more is let go
)

// stream answers with server-sent events of one kind. The watch sends with an id ("" for
// none; a nil value for an id alone) until it ends; an error after the first byte goes out as an event `error` that
// carries the Problem.
func (c *call) stream(kind string, watch func(send func(id string, v any) error) error) error {
	s := &sse{w: c.w, rc: http.NewResponseController(c.w)}
	h := c.w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no")
	if err := s.write(": holdfast\n\n"); err != nil {
		return nil // the caller has gone
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		t := time.NewTicker(heartbeat)
		defer t.Stop()
		for {
			select {
			case <-stop:
				return
			case <-t.C:
				if s.write(": heartbeat\n\n") != nil {
					return // the watch's own next write, or the request's context, ends it
				}
			}
		}
	})
	err := watch(func(id string, v any) error {
		if v == nil {
			return s.write("id: " + id + "\n\n")
		}
		b, err := json.Marshal(v)
		if err != nil {
			return fmt.Errorf("encode %s: %w", kind, err)
		}
		if id != "" {
			id = "id: " + id + "\n"
		}
		return s.write(id + "event: " + kind + "\ndata: " + string(b) + "\n\n")
	})
	close(stop)
	wg.Wait()
	if err != nil && c.ctx().Err() == nil {
		if b, merr := json.Marshal(problemOf(err)); merr == nil {
			_ = s.write("event: error\ndata: " + string(b) + "\n\n") // the last word either way
		}
	}
	return nil
}

// sse writes whole events, one at a time.
type sse struct {
	mu sync.Mutex
	w  http.ResponseWriter
	rc *http.ResponseController
}

func (s *sse) write(text string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	// Recorders in tests know no deadlines; a real connection always does.
	_ = s.rc.SetWriteDeadline(time.Now().Add(writeTimeout))
	if _, err := io.WriteString(s.w, text); err != nil {
		return err
	}
	return s.rc.Flush()
}
