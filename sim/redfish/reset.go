// SPDX-License-Identifier: Apache-2.0

package redfish

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/holdfast-ha/holdfast/sim/bmc"
)

const (
	resetPath = "/Actions/ComputerSystem.Reset"
	keptTasks = 100
)

// Reset types of DSP0268 that mean something to a chassis.
var (
	allResetTypes = []string{"On", "ForceOn", "ForceOff", "GracefulShutdown", "ForceRestart", "PowerCycle", "Nmi"}
	resetVerbs    = map[string]bmc.Verb{
		"On": bmc.VerbOn, "ForceOn": bmc.VerbOn, "ForceOff": bmc.VerbOff, "GracefulShutdown": bmc.VerbSoft,
		"ForceRestart": bmc.VerbReset, "PowerCycle": bmc.VerbCycle, "Nmi": bmc.VerbDiag,
	}
)

// task is a reset that was answered 202.
type task struct {
	id    int
	sys   *system
	waits bool // for the chassis to reach want
	want  bool
	fails bool
}

func (t *task) uri() string     { return fmt.Sprint(tasksURI, "/", t.id) }
func (t *task) monitor() string { return fmt.Sprint(monitorsURI, "/", t.id) }

func (t *task) state() string {
	switch {
	case t.fails:
		return "Exception"
	case t.waits && t.sys.Chassis.Power() != t.want:
		return "Running"
	}
	return "Completed"
}

func (t *task) body() map[string]any {
	status := "OK"
	if t.fails {
		status = "Critical"
	}
	return resource(t.uri(), "#Task.v1_4_2.Task", fmt.Sprint(t.id), "Reset", map[string]any{"TaskState": t.state(), "TaskStatus": status, "TaskMonitor": t.monitor()})
}

// getTask answers for tasks and their monitors; a monitor is 202 while the task runs.
func (s *Server) getTask(path string) answer {
	for _, t := range s.tasks {
		switch {
		case path == t.uri():
			return answer{status: http.StatusOK, body: t.body()}
		case path == t.monitor() && t.state() == "Running":
			return answer{status: http.StatusAccepted, header: map[string]string{"Location": t.monitor()}, body: t.body()}
		case path == t.monitor():
			return answer{status: http.StatusOK, body: t.body()}
		}
	}
	return notFound()
}

// reset carries out ComputerSystem.Reset; all of it is in the truth log.
func (s *Server) reset(sys *system, body []byte, c request) answer {
	var in struct{ ResetType string }
	err := json.Unmarshal(body, &in)
	verb, known := resetVerbs[in.ResetType]
	if !known {
		verb = bmc.VerbInvalid
	}
	_, canDiag := sys.Chassis.(bmc.Diagnoser)
	e := c.entry(sys, verb)
	refuse := func(a answer) answer { return s.finish(sys, e, bmc.Refused, a) }
	same := verb == bmc.VerbOn && e.Before || verb == bmc.VerbOff && !e.Before
	switch {
	case c.who.user.Privilege < bmc.Operator:
		return refuse(forbidden())
	case err != nil:
		return refuse(failure(http.StatusBadRequest, "MalformedJSON", "The request body is malformed JSON."))
	case !slices.Contains(s.cfg.ResetTypes, in.ResetType), verb == bmc.VerbDiag && !canDiag:
		return refuse(unknownValue("ResetType", in.ResetType))
	case s.spend(func(f *Faults) *int { return &f.Busy }):
		return refuse(busy(http.StatusServiceUnavailable, "ServiceTemporarilyUnavailable", "The service is temporarily unavailable. Retry in 3 seconds."))
	case s.spend(func(f *Faults) *int { return &f.TooMany }):
		return refuse(busy(http.StatusTooManyRequests, "ServiceTemporarilyUnavailable", "Too many requests."))
	case s.spend(func(f *Faults) *int { return &f.InUse }):
		return refuse(failure(http.StatusConflict, "ResourceInUse", "The change to the requested resource failed because the resource is in use or in transit."))
	case same && c.f.RejectSameState, !e.Before && verb != bmc.VerbOn && verb != bmc.VerbOff:
		return refuse(failure(http.StatusConflict, "ResourceInStandby", "The host is already powered "+strings.ToLower(onOff(e.Before))+"."))
	}
	outcome := bmc.Ignored
	if !c.f.IgnoreCommands {
		outcome = bmc.Executed
		act(sys, verb, c)
	}
	if !s.cfg.Tasks {
		return s.finish(sys, e, outcome, answer{status: http.StatusNoContent})
	}
	s.made++
	t := &task{id: s.made, sys: sys, waits: sys.moves, want: sys.want, fails: c.f.TaskFails}
	if s.tasks = append(s.tasks, t); len(s.tasks) > keptTasks {
		s.tasks = slices.Delete(s.tasks, 0, 1)
	}
	return s.finish(sys, e, outcome, answer{status: http.StatusAccepted, header: map[string]string{"Location": t.monitor()}, body: t.body()})
}

func onOff(on bool) string {
	if on {
		return "On"
	}
	return "Off"
}

func act(sys *system, verb bmc.Verb, c request) {
	sys.moves = false
	switch verb {
	case bmc.VerbOff, bmc.VerbOn:
		sys.want = verb == bmc.VerbOn
		sys.Chassis.SetPower(sys.want)
		sys.moves, sys.since = sys.Chassis.Power() != sys.want, c.now
	case bmc.VerbCycle:
		sys.Chassis.Cycle()
	case bmc.VerbReset:
		sys.Chassis.Reset()
	case bmc.VerbSoft:
		sys.Chassis.SoftOff()
	case bmc.VerbDiag:
		sys.Chassis.(bmc.Diagnoser).Diag()
	}
}

// patchSystem switches the lamp, the one property that can be changed.
func (s *Server) patchSystem(sys *system, body []byte, c request) answer {
	var in struct {
		IndicatorLED            *string
		LocationIndicatorActive *bool
	}
	e := c.entry(sys, bmc.VerbIdentify)
	err := json.Unmarshal(body, &in)
	lit := ""
	switch {
	case s.cfg.LocationIndicator && in.LocationIndicatorActive != nil && *in.LocationIndicatorActive:
		lit = "Lit"
	case s.cfg.LocationIndicator && in.LocationIndicatorActive != nil:
		lit = "Off"
	case !s.cfg.LocationIndicator && in.IndicatorLED != nil:
		lit = *in.IndicatorLED
	}
	switch {
	case c.who.user.Privilege < bmc.Operator:
		return s.finish(sys, e, bmc.Refused, forbidden())
	case err != nil:
		return s.finish(sys, e, bmc.Refused, failure(http.StatusBadRequest, "MalformedJSON", "The request body is malformed JSON."))
	case !slices.Contains([]string{"Lit", "Blinking", "Off"}, lit):
		return s.finish(sys, e, bmc.Refused, unknownValue("of the indicator", lit))
	case c.f.IgnoreCommands:
		return s.finish(sys, e, bmc.Ignored, answer{status: http.StatusNoContent})
	}
	sys.lit = lit
	sys.Chassis.Identify(0, lit != "Off")
	return s.finish(sys, e, bmc.Executed, answer{status: http.StatusNoContent})
}
