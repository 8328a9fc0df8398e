package api

import "net/http"

func (s *Server) events(w http.ResponseWriter, r *http.Request) error { return s.engine.forward(w, r) }
