// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
	"github.com/holdfast-ha/holdfast/agent/hypervisor"
	"github.com/holdfast-ha/holdfast/agent/metric/metrictest"
	"github.com/holdfast-ha/holdfast/coordinator/command"
)

// What a heartbeat needs waits for no disk: neither what it tells of the journal, nor what the
// answer to it has deleted or written down.
func TestAHeartbeatWaitsForNoDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := make(chan struct{})
		var hangs atomic.Bool
		a := newAgent(t, func(o *Options) {
			o.SyncJournal = func(*os.File) error {
				if hangs.Load() {
					<-disk
				}
				return nil
			}
		})
		defer a.openCommands(t.Context(), "boot-1")()
		j, _, err := a.commands.get()
		if err != nil {
			t.Fatal(err)
		}
		spec := command.Spec{V: command.Version, Kind: command.Copy, Items: []command.Item{{Volume: "v", Format: "raw"}}}
		if err := j.Begin("c1", spec, "taken"); err != nil {
			t.Fatal(err)
		}
		if err := j.Begin("c2", spec, "taken"); err != nil {
			t.Fatal(err)
		}
		hangs.Store(true)
		release := sync.OnceFunc(func() { close(disk) })
		defer release()
		stepped := make(chan error, 1)
		go func() { stepped <- j.Step("c1", command.Completed, "copied") }()
		go func() { // the epoch memory hangs on the same disk
			_, _ = through(context.Background(), a.disk, func(context.Context) (struct{}, error) { <-disk; return struct{}{}, nil })
		}()
		synctest.Wait()
		began := time.Now()
		a.commands.forget([]*agentpb.JournalEntry{{Command: "c2", Seq: 1}})
		a.commands.forget([]*agentpb.JournalEntry{{Command: "c2", Seq: 1}})
		if all := a.commands.entries(); len(all) != 2 || all[0].GetSeq() != 1 {
			t.Errorf("the journal is told as %v, want what is durable", all)
		}
		if r := a.report(); r.GetStateDiskHung() != "" || time.Since(began) != 0 {
			t.Errorf("after %v the disk hangs since %q", time.Since(began), r.GetStateDiskHung())
		}
		<-time.After(2 * accessLimit) // of the bubble
		began = time.Now()
		if since, err := time.Parse(time.RFC3339, a.report().GetStateDiskHung()); err != nil || time.Since(since) < accessLimit {
			t.Errorf("after %v the disk hangs since %v, %v", 2*accessLimit, since, err)
		}
		if err := a.admit(ep("c1", 1, 10)); err != nil {
			t.Errorf("a new owner is refused because of a disk: %v", err)
		}
		if took := time.Since(began); took > stateLimit {
			t.Errorf("that took %v", took)
		}
		metrictest.Shows(t, metrictest.Scrape(t, a.metrics.Table), `holdfast_agent_state_write_age_seconds 10`)
		release()
		if err := <-stepped; err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if all := a.commands.entries(); len(all) != 1 || all[0].GetSeq() != 2 || a.report().GetStateDiskHung() != "" {
			t.Errorf("with the disk back: %v, hung since %q", all, a.report().GetStateDiskHung())
		}
	})
}

// A command that the journal does not take in time is not begun, then or later; the next one
// is refused at once.
func TestACommandWithoutAJournalIsNotBegun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := make(chan struct{})
		a := newAgent(t, func(o *Options) {
			o.Hypervisor = &copyingHost{}
			o.SyncJournal = func(*os.File) error { <-disk; return nil }
		})
		defer a.openCommands(t.Context(), "boot-1")()
		run := func(id string) (string, error) {
			body := `{"v":1,"kind":"copy","items":[{"volume":"v","format":"raw","from":{"pool":"a","path":"v"},"to":{"pool":"b","path":"w"}}]}`
			answer, err := a.commands.handle(t.Context(), &agentpb.CommandRequest{Verb: agentpb.CommandRequest_RUN, Command: id, Body: []byte(body)})
			return answer.GetRefused(), err
		}
		first := make(chan string, 1)
		go func() {
			refused, err := run("c1")
			if err != nil {
				t.Error(err)
			}
			first <- refused
		}()
		synctest.Wait()
		if all := a.commands.entries(); len(all) != 1 || all[0].GetCommand() != "c1" || all[0].GetSeq() != 0 {
			t.Errorf("while it is written it is told as %v", all)
		}
		if refused, err := run("c1"); refused != "" || err == nil {
			t.Errorf("the same once more meanwhile: refused %q, %v; want neither a yes nor a no", refused, err)
		}
		if refused := <-first; !strings.Contains(refused, "not begun") {
			t.Errorf("refused: %q", refused)
		}
		<-time.After(time.Second) // of the bubble
		asked := time.Now()
		if refused, err := run("c2"); err != nil || !strings.Contains(refused, "not begun") || time.Since(asked) != 0 {
			t.Errorf("after %v refused: %q, %v", time.Since(asked), refused, err)
		}
		close(disk)
		synctest.Wait()
		j, _, _ := a.commands.get()
		all := j.All()
		if len(all) != 1 || all[0].ID != "c1" || all[0].Last().State != command.Failed || len(all[0].Steps) != 2 {
			t.Errorf("with the disk back: %+v", all)
		}
	})
}

// copyingHost can copy, and panics when it is asked to.
type copyingHost struct {
	fakeHost
	hypervisor.Storage
	hypervisor.Copier
}
