// SPDX-License-Identifier: Apache-2.0

package v1_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// A caller that was told to wait waits, and asks the same worker again, writes too: nothing was
// done. One that would have to wait longer than its call may take gets the refusal.
func TestTooManyRequestsAreWaitedOut(t *testing.T) {
	var asked atomic.Int32
	after := "1"
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1) == 1 || after == "60" {
			w.Header().Set("Retry-After", after)
			w.WriteHeader(http.StatusTooManyRequests)
			_, _ = w.Write([]byte(`{"code":"rate-limited","status":429,"detail":"slowly"}`))
			return
		}
		_, _ = w.Write([]byte(`{}`))
	}))
	defer s.Close()
	c, err := v1.NewClient(v1.Options{Endpoints: []string{s.URL}, Timeout: 30 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if _, err := c.DrainWorker(t.Context(), "w-1", v1.DrainRequest{}); err != nil || asked.Load() != 2 || time.Since(began) < time.Second {
		t.Errorf("%v after %d requests and %v, want the second to do it after a second", err, asked.Load(), time.Since(began))
	}
	after = "60"
	asked.Store(0)
	_, err = c.Workers(t.Context())
	var p *v1.Problem
	if !errors.As(err, &p) || p.Status != http.StatusTooManyRequests || asked.Load() != 1 {
		t.Errorf("%v after %d requests, want the refusal at once", err, asked.Load())
	}
}
